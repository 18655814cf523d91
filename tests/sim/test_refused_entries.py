"""One entry that Ray cannot check makes it refuse the whole document; that is one service's trouble, nobody else's."""

from __future__ import annotations

import json
from dataclasses import replace

from specs.canonical import canonical_json
from specs.desired import DesiredService
from specs.reasons import Reason
from tests.builders import service
from tests.sim.world import Simulation

ROUTER = {"request_router_class": "our_routers.sticky:Router"}


def routed(made: DesiredService) -> DesiredService:
    """Return a service whose deployments name a request router, which Ray's dashboard imports."""
    template = json.loads(made.revision.template)
    for deployment in template["deployments"]:
        deployment["request_router_config"] = ROUTER
    return replace(made, revision=replace(made.revision, template=canonical_json(template)))


async def test_the_others_go_on_and_it_follows_once_ray_can_import_it() -> None:
    sim = Simulation()
    sim.push(service("alpha"), service("beta"), service("gamma"))
    await sim.settle()
    sim.push(routed(service("alpha", "v2")), service("beta", "v2"), service("gamma", "v2"))
    await sim.until(
        lambda: all(sim.status(name).stable == "v2" for name in ("beta", "gamma")), what="the others arrive"
    )
    held = sim.status("alpha")
    assert (held.stable, held.candidate, held.quarantined) == ("v1", "v2", ())
    assert held.reason is Reason.INVALID_DOCUMENT
    assert "No module named 'our_routers'" in held.message
    assert sim.weights("alpha") == {"v1": 100}

    sim.serve.instance.installed |= {"our_routers"}
    await sim.until(lambda: sim.status("alpha").stable == "v2", what="alpha arrives")


async def test_what_runs_already_is_named_and_nobody_else_blamed() -> None:
    """The head node was built anew without a module: a document without that application would delete it."""
    sim = Simulation()
    sim.serve.instance.installed |= {"our_routers"}
    sim.push(routed(service("alpha")), service("beta"))
    await sim.settle()
    sim.serve.instance.installed = frozenset({"ray"})
    sim.push(routed(service("alpha")), service("beta", "v2"))
    for _ in range(60):
        await sim.step()
    held = sim.status("beta")
    assert (held.stable, held.quarantined) == ("v1", ())
    assert "That is of alpha.v1" in held.message
    assert [name for name in sim.serve.configs() if name.startswith("beta")] == ["beta.v1.-.-.0"]
    assert sim.weights("alpha") == {"v1": 100}

    sim.serve.instance.installed |= {"our_routers"}
    await sim.until(lambda: sim.status("beta").stable == "v2", what="beta arrives")
