"""What the gateway's rules cost: HAProxy's own CPU time per request, beside a HAProxy without any rules.

The replicas are a HAProxy too, so that the gateway and not they are measured. CPU time and not requests
per second is told: it does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.gateway.process import binary_environment, find_binary
from specs.observed import Endpoint
from specs.routes import MOST_SHARES, CellWeight, HeaderMatch, HeaderRoute, RouteTable, ServiceRoute, Sticky, StickyKind
from tests.bench import report

ROUNDS = 7
REQUESTS = 8000
CONNECTIONS = 16
ZONES = ("a", "b", "c")
CELLS = (1, 2, len(ZONES), 12, MOST_SHARES)

PLAIN = """\
global
    nbthread 1
defaults
    mode http
    timeout client 1m
    timeout server 1m
    timeout connect 1s
frontend plain
    bind 127.0.0.1:{plain}
    default_backend replica
backend replica
    http-reuse aggressive
    server one 127.0.0.1:{replica}
"""

REPLICA = """\
global
    nbthread 1
defaults
    mode http
    timeout client 1m
    timeout server 1m
    timeout connect 1s
frontend replica
    bind 127.0.0.1:{replica}
    http-request return status 200 content-type application/json string '{routes}' if {{ path /-/routes }}
    http-request return status 200 content-type text/plain string "hello"
"""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where everybody listens."""

    gateway: int
    zoned: int
    plain: int
    replica: int


def cell(number: int) -> str:
    """Return a cell's name of the usual length."""
    return f"chat.{number:012x}.us-east-1a.-.1"


def free_ports() -> Ports:
    """Return ports that nobody had a moment ago."""
    sockets = [socket.socket() for _ in range(4)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    gateway, zoned, plain, replica = (int(found.getsockname()[1]) for found in sockets)
    for found in sockets:
        found.close()
    return Ports(gateway=gateway, zoned=zoned, plain=plain, replica=replica)


@contextmanager
def haproxy(config: str, port: int) -> Iterator[int]:
    """Run a HAProxy; yield its pid when it listens."""
    binary = find_binary(None)
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(config)
        file.flush()
        command = [str(binary), "-db", "-q", "-f", file.name]
        with subprocess.Popen(command, env=dict(binary_environment(binary)), stderr=subprocess.DEVNULL) as process:
            try:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except ConnectionRefusedError:
                        assert process.poll() is None, "HAProxy ended at its start"
                yield process.pid
            finally:
                process.kill()


def cpu_seconds(pid: int) -> float:
    """Return the time that a process was on a processor; the clock of /proc/PID/stat ticks every 10 ms only."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def ask(port: int, header: str = "") -> None:
    """Send REQUESTS over CONNECTIONS kept ones; `header` is one more line of each."""
    lines = ["GET /chat/completions?model=x HTTP/1.1", "Host: bench", "Accept: */*", "User-Agent: bench"]
    request = "\r\n".join([*lines, *([header] if header else []), "", ""]).encode()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    try:
        for _ in range(REQUESTS // CONNECTIONS):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                answer = connection.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200"), answer
    finally:
        for connection in connections:
            connection.close()


async def measure(port: int, pid: int, header: str = "") -> float:
    """Return microseconds of CPU per request."""
    before = cpu_seconds(pid)
    await asyncio.to_thread(ask, port, header)
    return (cpu_seconds(pid) - before) / REQUESTS * 1e6


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a service asks for beside two cells, and the header that its clients send."""

    name: str
    header: str
    sticky: Sticky | None = None
    matches: tuple[HeaderMatch, ...] = ()


EXTRAS = (
    Asked(name="kept by a cookie", header="Cookie: v=8f14e45f", sticky=Sticky(kind=StickyKind.COOKIE, name="v")),
    Asked(name="a new cookie each", header="Cookie: w=8f14e45f", sticky=Sticky(kind=StickyKind.COOKIE, name="v")),
    Asked(name="kept by a header", header="X-User: 8f14e45f", sticky=Sticky(kind=StickyKind.HEADER, name="x-user")),
    Asked(name="a header route", header="X-Canary: yes", matches=(HeaderMatch(name="x-canary", value="yes"),)),
    Asked(name="cookie taken back", header="Cookie: w=8f14e45f", sticky=Sticky(kind=StickyKind.OVER, name="v")),
)


def table(cells: int, asked: Asked | None = None) -> RouteTable:
    """Return a service with its requests spread over so many cells."""
    weights = [10000 // cells] * (cells - 1)
    weights.append(10000 - sum(weights))
    shares = tuple(CellWeight(cell=cell(number), weight=weight) for number, weight in enumerate(weights))
    route = ServiceRoute(service="chat", route="/chat", cells=shares)
    if asked is not None:
        header = HeaderRoute(cell=cell(cells - 1), matches=asked.matches) if asked.matches else None
        route = replace(route, sticky=asked.sticky, header=header)
    return RouteTable(services=(route,))


async def through_gateway(gateway: HAProxyGateway, ports: Ports, cells: int, asked: Asked | None = None) -> float:
    """Return microseconds of CPU per request with the service's requests spread over `cells`."""
    await gateway.route(table(cells, asked))
    endpoint = Endpoint(ip="127.0.0.1", port=ports.replica, replica="one")
    await gateway.refresh({cell(number): (endpoint,) for number in range(cells)}, complete=True)
    async with asyncio.timeout(30):
        while sum(bool(lane.up) for lane in (await gateway.observe()).lanes) < cells:
            await asyncio.sleep(0.05)
    return await measure(ports.gateway, gateway.pid, asked.header if asked else "")


async def in_its_zone(gateway: HAProxyGateway, ports: Ports) -> float:
    """Return microseconds of CPU per request with a cell in each zone, all requests in the gateway's own."""
    (route,) = table(len(ZONES)).services
    cells = tuple(replace(cell, zone=zone) for cell, zone in zip(route.cells, ZONES, strict=True))
    await gateway.route(RouteTable(services=(replace(route, cells=cells, may_prefer_zone=True),)))
    endpoint = Endpoint(ip="127.0.0.1", port=ports.replica, replica="one", room=2 * CONNECTIONS)
    await gateway.refresh({found.cell: (endpoint,) for found in cells}, complete=True)
    async with asyncio.timeout(30):
        while sum(bool(lane.up) for lane in (await gateway.observe()).lanes) < len(ZONES):
            await asyncio.sleep(0.05)
    cost = await measure(ports.zoned, gateway.pid)
    await gateway.observe()
    assert gateway.crossings()[cells[0].cell]["near"] >= REQUESTS
    return cost


@asynccontextmanager
async def gateways(folder: Path, ports: Ports) -> AsyncIterator[tuple[HAProxyGateway, HAProxyGateway]]:
    """Run a gateway without a zone and one that has one."""
    plain = GatewaySettings(folder=folder / "plain", port=ports.gateway, threads=1, lanes=2 * MOST_SHARES)
    zoned = replace(plain, folder=folder / "zoned", port=ports.zoned, zone=ZONES[0])
    async with AsyncExitStack() as stack:
        found = [HAProxyGateway(given, SystemClock()) for given in (plain, zoned)]
        for gateway in found:
            stack.push_async_callback(gateway.stop, timedelta(0))
            await stack.enter_async_context(gateway.running())
        yield found[0], found[1]


async def compare() -> dict[str, list[float]]:
    """Return microseconds per request of each arrangement, rounds interleaved."""
    ports = free_ports()
    routes = "{" + ",".join(f'"/_/{cell(number)}":"x"' for number in range(MOST_SHARES)) + "}"
    results: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        haproxy(REPLICA.format(replica=ports.replica, routes=routes), ports.replica),
    ):
        async with gateways(Path(folder), ports) as (gateway, zoned):
            with haproxy(PLAIN.format(plain=ports.plain, replica=ports.replica), ports.plain) as plain:
                for _ in range(ROUNDS):
                    results.setdefault("HAProxy without rules", []).append(await measure(ports.plain, plain))
                    for cells in CELLS:
                        name = f"gateway, {cells} cell{'s' if cells > 1 else ''}"
                        results.setdefault(name, []).append(await through_gateway(gateway, ports, cells))
                    name = f"gateway, {len(ZONES)} cells, its own zone first"
                    results.setdefault(name, []).append(await in_its_zone(zoned, ports))
                    for asked in EXTRAS:
                        name = f"gateway, 2 cells, {asked.name}"
                        results.setdefault(name, []).append(await through_gateway(gateway, ports, 2, asked))
    return results


def run() -> None:
    """Measure and write docs/benchmarks/gateway.md."""
    results = asyncio.run(compare())
    base = statistics.median(results["HAProxy without rules"])
    rows = [
        (
            name,
            f"{statistics.median(costs):.1f}",
            f"{min(costs):.1f}-{max(costs):.1f}",
            f"{statistics.median(costs) - base:+.1f}",
        )
        for name, costs in results.items()
    ]
    text = report.table(("arrangement", "CPU per request (us), median", "range", "beside no rules"), rows)
    how = (
        f"{ROUNDS} interleaved rounds of {REQUESTS} requests over {CONNECTIONS} kept connections; HAProxy's user and"
        " system time, one thread. The replica is a HAProxy that answers at once."
    )
    report.write("gateway", "What the gateway's rules cost", [text, how])


if __name__ == "__main__":
    run()
