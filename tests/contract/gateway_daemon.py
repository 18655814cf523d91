"""A daemon to be killed: runs a gateway as its arguments say, prints `ready`, and waits."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.gateway import GatewaySettings, HAProxyGateway
from specs.observed import Endpoint
from specs.routes import CellWeight, RouteTable, ServiceRoute


async def main(folder: str, port: int, cells: dict[str, tuple[int, int]]) -> None:
    """`cells` holds weight and replica port per cell."""
    settings = GatewaySettings(folder=Path(folder), port=port, lanes=16, tick=timedelta(seconds=0.3))
    gateway = HAProxyGateway(settings, SystemClock())
    async with gateway.running():
        weights = tuple(CellWeight(cell=cell, weight=weight) for cell, (weight, _) in cells.items())
        await gateway.route(RouteTable(services=(ServiceRoute(service="chat", route="/chat", cells=weights),)))
        endpoints = {cell: (Endpoint(ip="127.0.0.1", port=at, replica="r"),) for cell, (_, at) in cells.items()}
        await gateway.refresh(endpoints, complete=True)
        while not all(lane.up for lane in (await gateway.observe()).lanes):
            await asyncio.sleep(0.05)
        print("ready", gateway.pid, flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
