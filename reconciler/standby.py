"""What a keeper does while the daemon is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from policies.preemption import left_at
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.adapters.store import FILE, SqliteStore
from reconciler.claim import end_keeper, start_keeper
from reconciler.errors import PortError, Stalled
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.observe import ENDPOINT_INTERVAL, endpoints_without
from reconciler.ports import Clock, Gateway, Serve
from specs.memory import Memory

if TYPE_CHECKING:  # Not at run time: a keeper that has to stand in must not import what it does not use.
    from reconciler.settings import Settings

CLAIM_INTERVAL = timedelta(milliseconds=100)
"""How soon a daemon that starts has the gateway."""

TRY_AGAIN = timedelta(seconds=1)

GLANCE = timedelta(seconds=5)
"""How late a keeper that died is replaced: it is needed only when the daemon dies too."""

LONGEST_REST = timedelta(minutes=5)

log = structlog.get_logger("heliostat.keeper")


@asynccontextmanager
async def with_keeper(settings: Settings, gateway: GatewaySettings, clock: Clock) -> AsyncIterator[None]:
    """Have a keeper wait for the end of this process, whatever that will be; it stays when the block ends."""
    if not settings.gateway_keeper:
        yield
        return
    watching = asyncio.ensure_future(_have_a_keeper(settings, gateway, clock))
    try:
        yield
    finally:
        watching.cancel()


async def _have_a_keeper(settings: Settings, gateway: GatewaySettings, clock: Clock) -> None:
    """Start a keeper, and another one should it die: more and more slowly, for then something is wrong with it."""
    rest = GLANCE
    await asyncio.to_thread(end_keeper, gateway.folder, signal.SIGKILL)  # It waits for us with other settings.
    while True:
        try:
            keeper = await asyncio.to_thread(start_keeper, gateway.folder, keeper_settings(settings, gateway))
            while keeper.poll() is None:
                await clock.sleep(GLANCE)
            log.warning("the gateway's keeper ended; another one is started", code=keeper.returncode)
        except OSError as error:
            log.warning("the gateway's keeper cannot be started", why=error.strerror)
        rest = min(LONGEST_REST, rest * 2)
        await clock.sleep(rest)


def keeper_settings(settings: Settings, gateway: GatewaySettings) -> dict[str, Any]:
    """Return what a keeper must know, as JSON."""
    return {
        "ray": settings.ray,
        "token": settings.ray_token.reveal() if settings.ray_token else None,
        "state": str(settings.state.absolute()),
        "folder": str(gateway.folder.absolute()),
        "host": gateway.host,
        "port": gateway.port,
        "tls_pem": str(gateway.tls_pem.absolute()) if gateway.tls_pem else None,
        "is_direct": gateway.is_direct,
        "zone": gateway.zone,
        "lanes": gateway.lanes,
    }


class Standby:
    """Keeps the gateway of a daemon that is away, until `is_claimed` or told to stop."""

    def __init__(self, settings: dict[str, Any], is_claimed: Callable[[], bool]) -> None:
        """`settings` are those of `keeper_settings`."""
        self._ray, self._token = settings["ray"], settings["token"]
        self._state = Path(settings["state"])
        self._clock = SystemClock(self._state)
        self._memory = Memory()
        self._is_claimed = is_claimed
        self._told_to_stop = asyncio.Event()
        pem = settings["tls_pem"]
        self._settings = GatewaySettings(
            folder=Path(settings["folder"]),
            host=settings["host"],
            port=settings["port"],
            tls_pem=Path(pem) if pem else None,
            is_direct=settings["is_direct"],
            zone=settings["zone"],
            lanes=settings["lanes"],
        )

    async def run(self) -> None:
        """Go on where the daemon ended. SIGTERM ends HAProxy too: nobody would be left to keep it."""
        _log_lines()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._told_to_stop.set)
        log.info("the daemon is gone: the gateway's endpoints are kept by this process", ray=self._ray)
        self._memory = await _remembered(self._state)
        async with RayRest(self._ray, token=self._token) as rest:
            serve = RayServe(rest, nodes=RayNodes(rest))
            while not self._is_over():
                await self._keep(serve)
        log.info("let go", to="nobody" if self._told_to_stop.is_set() else "the daemon")

    async def _keep(self, serve: Serve) -> None:
        gateway = HAProxyGateway(self._settings, self._clock)
        try:
            async with gateway.running():
                tasks = [asyncio.create_task(self._refresh(serve, gateway)), asyncio.create_task(self._over())]
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            if self._told_to_stop.is_set():
                await gateway.stop()
        except Stalled as error:
            log.warning("the gateway cannot be kept", why=error.reason)
            await self._clock.sleep(TRY_AGAIN)

    async def _refresh(self, serve: Serve, gateway: Gateway) -> None:
        """Tell the gateway where replicas are, as the daemon does; what Ray does not say stays as it is."""
        is_direct, memory = self._settings.is_direct, self._memory
        while True:
            try:
                seen = await serve.read()
                left = left_at(memory.preemption.notices, self._clock.now())
                endpoints = await endpoints_without(left, seen, memory, gateway, is_direct=is_direct)
                await gateway.refresh(endpoints, complete=True)
            except PortError as error:
                log.debug("endpoints not refreshed", reason=error.reason)
            await self._clock.sleep(ENDPOINT_INTERVAL)

    async def _over(self) -> None:
        while not self._is_over():
            await self._clock.sleep(CLAIM_INTERVAL)

    def _is_over(self) -> bool:
        """Return whether a daemon is there, or the work is done: told to stop, or the folder removed."""
        return self._is_claimed() or self._told_to_stop.is_set() or not self._settings.folder.is_dir()


async def _remembered(state: Path) -> Memory:
    """Return what the daemon knew when it went, if there are nodes that are about to go: no other notice will come.

    What cannot be read costs those nodes' last requests, and no endpoint.
    """
    if not (state / FILE).exists():
        return Memory()
    store = SqliteStore(state)
    try:
        memory = await store.load()
    except PortError as error:
        log.warning("notices of nodes that are about to go are not known", reason=error.reason)
        return Memory()
    finally:
        await store.close()
    return memory if memory.preemption.notices else Memory()


def _log_lines() -> None:
    """One JSON object a line, into the file that the keeper was started with."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
