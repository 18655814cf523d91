"""A service that greets. Change VERSION (or anything else), commit, and watch the change take over."""

import os

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from ray import serve

VERSION = "v1"
GUEST_BOOK = os.environ.get("GREETER_GUEST_BOOK", os.devnull)

api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Greeter:
    def __init__(self) -> None:
        self.greeting = "Hello"

    @api.get("/")
    async def greet(self) -> PlainTextResponse:
        return PlainTextResponse(f"{self.greeting} from {VERSION}\n")

    @api.post("/guests")
    async def welcome(self, request: Request) -> PlainTextResponse:
        guest = (await request.body()).decode()
        with open(GUEST_BOOK, "a") as book:  # A guest who stands there twice was executed twice.
            book.write(f"{guest}\n")
        return await self.greet()


app = Greeter.bind()
