"""The application that all modes serve: as little work as FastAPI can do, and a stream of 200 events."""

from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve

api = FastAPI()
EVENTS = 200


@serve.deployment(name="Bench", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1000)
@serve.ingress(api)
class Bench:
    @api.get("/events")
    async def events(self) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for number in range(EVENTS):
                yield f"data: {number}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @api.get("/{path:path}")
    async def answer(self, path: str) -> dict[str, bool]:
        return {"ok": True}


app = Bench.bind()
