"""A Serve application for tests: it says what it sees, and misbehaves when its args say so.

args: `revision` (text, answered everywhere), `start_seconds` (a slow start), `fail_build`, `fail_start`,
`sick_file` (while that file exists, health checks fail), `with_backend` (a second deployment, `Backend`),
`tell_secrets` (its start fails and tells these variables),
`fail_every` and `slow_every` (so many plain GETs per one that is answered 500, or after `slow_seconds`).
"""

import asyncio
import hashlib
import os
import time
from typing import Any

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from ray import serve
from starlette.types import Message

COUNT_FILE = "ECHO_COUNT_FILE"
"""Names a file that gets one line per execution of POST /count."""

api = FastAPI()


@serve.deployment(name="Backend", num_replicas=2, ray_actor_options={"num_cpus": 0.1})
class Backend:
    async def __call__(self, text: str) -> str:
        return text.upper()


@serve.deployment(
    name="Echo",
    ray_actor_options={"num_cpus": 0.1},
    max_ongoing_requests=100,
    # How often a draining replica looks whether it may go; two seconds by default.
    graceful_shutdown_wait_loop_s=0.5,
)
@serve.ingress(api)
class Echo:
    def __init__(self, args: dict[str, Any], backend: Any = None) -> None:
        if args.get("fail_start"):
            raise RuntimeError(f"this revision cannot start: {args['fail_start']}")
        if args.get("tell_secrets"):
            raise RuntimeError(f"cannot log in with {[os.environ[name] for name in args['tell_secrets']]}")
        time.sleep(args.get("start_seconds", 0))
        self.revision = args.get("revision", "")
        self.sick_file = args.get("sick_file", "")
        self.backend = backend
        self.fail_every = args.get("fail_every", 0)
        self.slow_every, self.slow_seconds = args.get("slow_every", 0), args.get("slow_seconds", 0.0)
        self.asked = 0

    def check_health(self) -> None:
        if self.sick_file and os.path.exists(self.sick_file):
            raise RuntimeError("this replica was told to be sick")

    @api.get("/slow")
    async def slow(self, seconds: float = 1.0) -> dict[str, Any]:
        await asyncio.sleep(seconds)
        return {"revision": self.revision, "slept": seconds}

    @api.get("/events")
    async def events(self, count: int = 5, pause: float = 0.2) -> StreamingResponse:
        async def lines() -> Any:
            for number in range(count):
                yield f"data: {self.revision} {number}\n\n"
                await asyncio.sleep(pause)
            yield "data: end\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @api.post("/count")
    async def count(self, request: Request) -> dict[str, Any]:
        key = (await request.body()).decode()
        # One write of one short line with O_APPEND is atomic: several replicas share the file.
        with open(os.environ[COUNT_FILE], "a") as file:
            file.write(f"{key} {self.revision}\n")
        return {"revision": self.revision, "key": key}

    @api.post("/size")
    async def size(self, request: Request) -> dict[str, Any]:
        return {"revision": self.revision, "bytes": sum([len(part) async for part in request.stream()])}

    @api.get("/backend")
    async def ask_backend(self, text: str = "hello") -> dict[str, Any]:
        return {"revision": self.revision, "answer": await self.backend.remote(text)}

    @api.get("/digest")
    async def digest(self, name: str) -> dict[str, Any]:
        """Say what a variable holds without showing it."""
        return {"sha256": hashlib.sha256(os.environ.get(name, "").encode()).hexdigest(), "all": len(os.environ)}

    @api.websocket("/socket")
    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            message: Message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await websocket.send_text(f"{self.revision} {message.get('text', '')}")

    @api.get("/crash")
    async def crash(self) -> None:
        os._exit(1)

    @api.get("/{path:path}")
    async def echo(self, request: Request, path: str) -> dict[str, Any]:
        self.asked += 1
        if self.fail_every and self.asked % self.fail_every == 0:
            raise HTTPException(500, "this revision fails some requests")
        if self.slow_every and self.asked % self.slow_every == 0:
            await asyncio.sleep(self.slow_seconds)
        return {
            "revision": self.revision,
            "path": request.url.path,
            "scope_path": request.scope["path"],
            "root_path": request.scope.get("root_path", ""),
            "query": request.url.query,
            "headers": dict(request.headers),
            "pid": os.getpid(),
            "replica": serve.get_replica_context().replica_id.unique_id,
        }


def build(args: dict[str, Any]) -> Any:
    """Return the application. Everything that can go wrong is chosen by `args`."""
    if args.get("fail_build"):
        raise RuntimeError(f"this revision cannot be built: {args['fail_build']}")
    time.sleep(args.get("build_seconds", 0))
    if args.get("with_backend"):
        return Echo.bind(args, Backend.bind())
    return Echo.bind(args)
