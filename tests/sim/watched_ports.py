"""The ports as the daemon under test holds them: each effect is checked, counted, and may be the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.errors import PortError
from reconciler.ports import ServeSeen
from specs.effects import PutServeConfig, SaveMemory
from specs.memory import Event, HistoryEntry, Memory
from specs.observed import Endpoint, GatewaySeen
from specs.routes import RouteTable
from tests.sim.fake_gateway import FakeGateway
from tests.sim.fake_nodes import FakePackages
from tests.sim.fake_serve import FakeServe
from tests.sim.fake_store import Crashed, FakeStore
from tests.sim.invariants import Watch


@dataclass(kw_only=True)
class CrashPoint:
    """The daemon dies at the effect with this number (from 1): before it is done, or right after.

    `every` makes it die again each so many effects later, for as long as it is armed.
    """

    at: int | None = None
    is_after: bool = False
    every: int = 0
    count: int = 0

    def arm(self, effects_from_now: int, *, is_after: bool, every: int = 0) -> None:
        self.at, self.is_after, self.every = self.count + effects_from_now, is_after, every

    def disarm(self) -> None:
        self.at = None

    def before(self) -> None:
        self.count += 1
        if not self.is_after:
            self._strike("before")

    def after(self) -> None:
        if self.is_after:
            self._strike("after")

    def _strike(self, when: str) -> None:
        if self.count == self.at:
            self.at = self.at + self.every if self.every else None
            raise Crashed(f"{when} effect {self.count}")


class WatchedServe:
    """ports.Serve."""

    def __init__(self, inner: FakeServe, watch: Watch, crash: CrashPoint) -> None:
        self._inner, self._watch, self._crash = inner, watch, crash

    async def read(self) -> ServeSeen:
        try:
            return await self._inner.read()
        except PortError:
            self._watch.is_blind = True
            raise

    async def put(self, change: PutServeConfig) -> None:
        self._crash.before()
        check = self._watch.before_put(change)
        done = len(self._inner.puts)
        await self._inner.put(change)
        if len(self._inner.puts) > done:
            check()
        self._crash.after()

    async def scale(self, application: str, deployment: str, target: int) -> None:
        self._crash.before()
        self._watch.before_scale(application, deployment, target)
        await self._inner.scale(application, deployment, target)
        self._crash.after()


class WatchedGateway:
    """ports.Gateway."""

    def __init__(self, inner: FakeGateway, watch: Watch, crash: CrashPoint) -> None:
        self._inner, self._watch, self._crash = inner, watch, crash

    async def observe(self) -> GatewaySeen:
        try:
            return await self._inner.observe()
        except PortError:
            self._watch.is_blind = True
            raise

    async def route(self, table: RouteTable) -> None:
        self._crash.before()
        self._watch.before_route(table)
        await self._inner.route(table)
        self._crash.after()

    async def refresh(self, endpoints: Mapping[str, tuple[Endpoint, ...]], *, complete: bool) -> None:
        await self._inner.refresh(endpoints, complete=complete)


class WatchedStore:
    """ports.Store."""

    def __init__(self, inner: FakeStore, watch: Watch, crash: CrashPoint) -> None:
        self._inner, self._watch, self._crash = inner, watch, crash

    async def load(self) -> Memory:
        return await self._inner.load()

    async def save(self, change: SaveMemory) -> int:
        self._crash.before()
        event = await self._inner.save(change)
        self._watch.saved(change)
        self._crash.after()
        return event

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        return await self._inner.events(service=service, since=since, limit=limit)

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        return await self._inner.history(service)


class WatchedPackages:
    """ports.Packages."""

    def __init__(self, inner: FakePackages, watch: Watch, crash: CrashPoint) -> None:
        self._inner, self._watch, self._crash = inner, watch, crash

    async def has(self, uri: str) -> bool:
        return await self._inner.has(uri)

    async def upload(self, uri: str, content: bytes) -> None:
        self._crash.before()
        self._watch.note(f"upload {uri}")
        await self._inner.upload(uri, content)
        self._crash.after()
