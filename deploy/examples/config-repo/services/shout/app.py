"""Says it louder: an HTTP front and a worker deployment behind it."""

from typing import Any

from fastapi import FastAPI
from ray import serve

api = FastAPI()


@serve.deployment
class Shouter:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    async def __call__(self, text: str) -> str:
        return text.upper() + self.mark


@serve.deployment
@serve.ingress(api)
class Api:
    def __init__(self, shouter: Any) -> None:
        self.shouter = shouter

    @api.get("/{text}")
    async def shout(self, text: str) -> dict[str, str]:
        return {"answer": await self.shouter.remote(text)}


def build(args: dict[str, str]) -> Any:
    return Api.bind(Shouter.bind(args.get("mark", "!")))
