"""The HAProxy that serves, and those before it that still finish their streams."""

from __future__ import annotations

import asyncio
import hashlib
import math
import resource
import signal
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from reconciler.errors import Stalled
from reconciler.gateway import listening
from reconciler.gateway.admin import AdminError, AdminSocket, parse_info, parse_map
from reconciler.gateway.config import (
    LANES_MAP,
    Content,
    Process,
    render_config,
    render_headers,
    render_lanes,
    render_routes,
    version,
)
from reconciler.gateway.folder import Folder
from reconciler.gateway.process import (
    HAProxyProcess,
    admin_name,
    adopt,
    find_binary,
    generation_of,
    spawn,
    trim_log,
    why_it_ended,
)
from reconciler.gateway.settings import GatewaySettings, sensible_threads
from reconciler.gateway.state import Running
from reconciler.pids import start_of

START_SECONDS = 10.0
DOOR = "door.sock"
"""Where a starting HAProxy is given the listening socket."""

MAX_CONNECTIONS = 20_000
UNKNOWN = ""
"""The version of a process whose configuration is not known: it is replaced."""

SPARE_DESCRIPTORS = 400
"""Descriptors for checks, sockets and libraries, beside two per connection."""


class Fleet:
    """Starts, replaces, adopts and ends HAProxy processes on one listening socket."""

    def __init__(self, settings: GatewaySettings, folder: Folder) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._folder = folder
        self._binary = find_binary(settings.binary)
        self._listener: socket.socket | None = None
        self._generation = 0
        self.lanes = settings.lanes
        self.current: HAProxyProcess | None = None
        self.former: list[HAProxyProcess] = []

    @property
    def processes(self) -> tuple[HAProxyProcess, ...]:
        """Return all processes that may hold requests, the current one first."""
        return (*((self.current,) if self.current else ()), *self.former)

    def admin(self, process: HAProxyProcess) -> AdminSocket:
        """Return a process's admin socket."""
        return AdminSocket(path=self._folder.socket_path(process.admin))

    def serving(self) -> HAProxyProcess:
        """Return the current process. Raises AdminError before there is one."""
        if self.current is None:
            raise AdminError("HAProxy is being started")
        return self.current

    async def ask(self, commands: Sequence[str]) -> tuple[str, ...]:
        """Run commands on the current process. Raises AdminError."""
        return await self.admin(self.serving()).ask(commands)

    async def tell(self, commands: Sequence[str]) -> None:
        """Run commands that answer nothing. Raises AdminError with the first that was refused."""
        await self.admin(self.serving()).tell(commands)

    async def find(self, running: Running | None) -> bool:
        """Adopt the HAProxy that a former daemon left; return whether it can stay as it is.

        True: it serves and is `current`. False: there is none, or it must be replaced by `start` (it is
        then `current` too, so that `start` lets it finish its streams).
        """
        if running is None:
            return False
        self._generation = running.generation
        process = adopt(running.pid, running.generation)
        if process is None or process.started != running.started or not await self._answers(process):
            return False
        self.current = process
        self.lanes = max(running.lanes, self._settings.lanes)
        self._listener = self._recovered(process)
        fits = self._listener is not None and running.lanes == self.lanes
        return fits and running.version == version(self._describe(0))

    async def discover(self) -> Running | None:
        """Return the HAProxy that listens on one of the folder's admin sockets, newest first, or None.

        For a daemon without a readable state: the folder is ours alone, so is what answers in it.
        """
        generations = {generation_of(path.name) for path in self._folder.path.glob("admin.*.sock")}
        for generation in sorted(generations, reverse=True):
            admin = AdminSocket(path=self._folder.socket_path(admin_name(generation)))
            try:
                info, lanes = await admin.ask(["show info", f"show map {LANES_MAP}"])
            except AdminError:
                continue
            pid = int(parse_info(info)["Pid"])
            started = start_of(pid)
            if started is not None:
                size = len(parse_map(lanes))
                return Running(pid=pid, started=started, generation=generation, version=UNKNOWN, lanes=size)
        return None

    def _recovered(self, process: HAProxyProcess) -> socket.socket | None:
        listener = listening.recover(self._folder.socket_path(process.admin))
        if listener is None or listening.is_bound_to(listener, self._settings.host, self._settings.port):
            return listener
        listener.close()
        return None

    async def _answers(self, process: HAProxyProcess) -> bool:
        try:
            (text,) = await self.admin(process).ask(["show info"])
        except AdminError:
            return False
        info = parse_info(text)
        return info.get("Pid") == str(process.pid) and info.get("Stopping") == "0"

    async def start(self, content: Content, lanes: int) -> None:
        """Start a HAProxy that knows `content` from its first request; a running one finishes its streams.

        Both have the same listening socket, so no connection is refused in between.
        Raises Stalled when HAProxy does not come up.
        """
        if self._listener is None:
            self._listener = listening.bind(self._settings.host, self._settings.port)
        self._generation += 1
        process = self._describe(self._generation, lanes, content)
        self._folder.write("haproxy.cfg", render_config(process, content))
        self._folder.write("routes.map", render_routes(content.rows))
        self._folder.write("headers.map", render_headers(content.headers))
        self._folder.write("lanes.map", render_lanes(lanes, content.prefixes))
        started = await self._spawn(self._listener)
        former, self.current, self.lanes = self.current, started, lanes
        if former is not None and former.is_alive():
            self.former.append(former)
            former.send(signal.SIGUSR1)

    async def _spawn(self, listener: socket.socket) -> HAProxyProcess:
        (self._folder.path / DOOR).unlink(missing_ok=True)
        door = listening.offer(self._folder.socket_path(DOOR))
        started = spawn(self._binary, self._folder.path, door=DOOR, generation=self._generation)
        # In a thread: HAProxy waits a second for its socket, whatever holds up this process's loop.
        handing = asyncio.create_task(asyncio.to_thread(listening.hand_over, door, listener, started.is_alive))
        try:
            await self._await_start(started)
        except BaseException:
            started.send(signal.SIGKILL)
            raise
        finally:
            await handing
            (self._folder.path / DOOR).unlink(missing_ok=True)
        return started

    async def _await_start(self, process: HAProxyProcess) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers(process):
                    if not process.is_alive():
                        raise Stalled(f"HAProxy ended at its start: {why_it_ended(self._folder.path)}")
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise Stalled(f"HAProxy did not come up within {START_SECONDS:.0f} s") from error

    def _describe(self, generation: int, lanes: int = 1, content: Content | None = None) -> Process:
        settings = self._settings
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = MAX_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard
        patience = content.patience if content else timedelta(0)
        return Process(
            admin=admin_name(generation),
            address=f"[{settings.host}]:{settings.port}"
            if ":" in settings.host
            else f"{settings.host}:{settings.port}",
            lanes=lanes,
            threads=settings.threads or sensible_threads(),
            maxconn=max(100, min(MAX_CONNECTIONS, (limit - SPARE_DESCRIPTORS) // 2)),
            is_direct=settings.is_direct,
            zone=settings.zone,
            tls_pem=str(settings.tls_pem.absolute()) if settings.tls_pem else "",
            tls_digest=_digest(settings.tls_pem) if settings.tls_pem else "",
            hard_stop_seconds=math.ceil(patience.total_seconds()),
        )

    def running(self) -> Running | None:
        """Return what the next daemon needs to adopt the current process."""
        if self.current is None:
            return None
        return Running(
            pid=self.current.pid,
            started=self.current.started,
            generation=self.current.generation,
            version=version(self._describe(0)),
            lanes=self.lanes,
        )

    def tidy(self) -> None:
        """Drop former processes that have ended, with their sockets, and keep HAProxy's own log short."""
        trim_log(self._folder.path)
        for process in [process for process in self.former if not process.is_alive()]:
            self.former.remove(process)
            self._unlink(process)

    def _unlink(self, process: HAProxyProcess) -> None:
        (self._folder.path / process.admin).unlink(missing_ok=True)

    async def stop(self, grace: timedelta) -> None:
        """End every process: new connections are refused at once, streams have `grace` to finish."""
        self.close()
        for process in self.processes:
            process.send(signal.SIGUSR1)
        await self._all_ended(grace)
        for process in self.processes:
            process.send(signal.SIGKILL)
        await self._all_ended(timedelta(seconds=5))
        for process in self.processes:
            self._unlink(process)
        self.current, self.former = None, []

    async def _all_ended(self, patience: timedelta) -> None:
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await asyncio.gather(*(process.ended() for process in self.processes))
        except TimeoutError:
            return

    def close(self) -> None:
        """Let the listening socket go; HAProxy keeps its own copy."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise Stalled(f"the gateway's certificate {path} cannot be read: {error.strerror}") from error
