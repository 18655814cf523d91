"""A daemon to be killed that has a keeper: routes as its arguments say, prints `ready` and HAProxy's pid, and waits."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.claim import Claim
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.observe import endpoints_of
from reconciler.settings import Settings
from reconciler.standby import with_keeper
from specs.routes import CellWeight, RouteTable, ServiceRoute


async def main(state: Path, port: int, ray: str, weights: dict[str, int]) -> None:
    settings = Settings(repo="", ray=ray, state=state)
    given = GatewaySettings(folder=state / "gateway", port=port, lanes=16)
    clock = SystemClock(state)
    claim = Claim(given.folder)
    await asyncio.to_thread(claim.take)
    gateway = HAProxyGateway(given, clock)
    async with RayRest(ray) as rest, gateway.running(), with_keeper(settings, given, clock):
        cells = tuple(CellWeight(cell=cell, weight=weight) for cell, weight in weights.items())
        await gateway.route(RouteTable(services=(ServiceRoute(service="chat", route="/chat", cells=cells),)))
        seen = await RayServe(rest).read()
        await gateway.refresh(endpoints_of(seen, is_direct=True), complete=True)
        while not all(lane.up for lane in (await gateway.observe()).lanes):
            await asyncio.sleep(0.05)
        print("ready", gateway.pid, flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])))
