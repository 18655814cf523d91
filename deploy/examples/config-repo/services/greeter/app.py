"""A service that greets. Change VERSION (or anything else), commit, and watch the change take over."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from ray import serve

VERSION = "v1"

api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Greeter:
    def __init__(self) -> None:
        self.greeting = "Hello"

    @api.get("/")
    async def greet(self) -> PlainTextResponse:
        return PlainTextResponse(f"{self.greeting} from {VERSION}\n")


app = Greeter.bind()
