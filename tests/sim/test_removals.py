"""A service that leaves Git is taken away when its last requests have ended, whatever the gateway remembers of them."""

from __future__ import annotations

from datetime import datetime

import pytest

from specs.desired import ClusterSettings, PruneSettings
from tests.builders import amount, seconds, service
from tests.sim.world import Simulation

PRUNE = ClusterSettings(prune=PruneSettings(enabled=True, max_services=9, max_fraction=amount("100%")))
LONGEST = 40


async def leaving() -> tuple[Simulation, datetime]:
    """Return a life in which a service has just lost its requests, and since when."""
    sim = Simulation()
    await sim.start()
    services = service("chat", "v1", 2, max_request=LONGEST), service("shop", "v1", 2, max_request=LONGEST)
    sim.push(*services, settings=PRUNE)
    await sim.settle()
    sim.push(services[1], settings=PRUNE)
    await sim.until(lambda: sim.gateway.table.service("chat") is None)
    return sim, sim.clock.now()


def is_going(sim: Simulation) -> bool:
    application = sim.serve.instance.applications.get("chat.v1.-.-.0")
    return application is None or application.is_deleting


async def test_it_goes_as_soon_as_nothing_is_in_flight() -> None:
    sim, since = await leaving()
    sim.watch.requests.forget()
    await sim.until(lambda: is_going(sim))

    assert sim.clock.now() - since < seconds(LONGEST / 2)


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_where_the_gateway_has_lost_what_is_in_flight_its_requests_have_their_time(after: int) -> None:
    sim, since = await leaving()
    await sim.run(after)
    sim.gateway.forget()
    await sim.until(lambda: is_going(sim))

    assert sim.clock.now() - since >= seconds(LONGEST)
