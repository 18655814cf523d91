"""The real application on a real uvicorn, on a free port, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from reconciler.api.app import make_app
from reconciler.api.compaction import Compaction
from reconciler.api.guard import Access
from reconciler.api.preemption import Preemption
from reconciler.api.server import ApiServer
from reconciler.settings import Address, Secret
from tests.unit.api.backends import NOW, MemoryBackend

TOKEN = "test-token-0123456789abcdef"
ACCESS = Access(token=Secret(TOKEN), hosts=("heliostat.example", "testserver"))


class FixedClock:
    """The time of the sample statuses."""

    def now(self) -> datetime:
        return NOW

    def wall(self) -> datetime:
        return NOW

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())


class Serving:
    """A server that runs; `do` runs a coroutine in its loop."""

    def __init__(
        self, url: str, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], thread: threading.Thread
    ) -> None:
        self.url = url
        self._loop = loop
        self._task = task
        self._thread = thread

    def stop(self) -> None:
        """Begin to end it, as the daemon does."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def end(self) -> None:
        """End it and wait until it is gone."""
        self.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def serving(
    backend: MemoryBackend,
    port: int = 0,
    *,
    compaction: Compaction | None = None,
    preemption: Preemption | None = None,
) -> Iterator[Serving]:
    server = ApiServer(Address(host="127.0.0.1", port=port))
    started = threading.Event()
    running: dict[str, Any] = {}

    async def main() -> None:
        running["loop"] = asyncio.get_running_loop()
        running["task"] = asyncio.current_task()
        started.set()
        app = make_app(backend, ACCESS, FixedClock())
        app.state.compaction = compaction
        app.state.preemption = preemption
        await server.serve(app)

    def run() -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    serving = Serving(f"http://{server.address}", running["loop"], running["task"], thread)
    try:
        yield serving
    finally:
        serving.end()
