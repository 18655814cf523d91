"""The cluster's budget of surge replicas: never exceeded, handed out in turn, and everybody arrives."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.pacing
import reconciler.planning.plan
from policies.surge import Grant
from reconciler.loop import Tick
from specs.desired import ClusterSettings, DesiredService
from specs.reasons import Reason
from tests.builders import Sizes, service, steps
from tests.sim.test_properties import lives
from tests.sim.world import Simulation


def spec(name: str, version: str, sizes: Sizes, surge: int | str, unavailable: int | str = 0) -> DesiredService:
    counts = {key: size[0] if isinstance(size, tuple) else size for key, size in sizes.items()}
    args = {"deployments": {key: count for key, count in counts.items() if count is not None}}
    ways = {"surge": surge, "unavailable": unavailable, "steps": steps(50), "scale_down": 5, "max_request": 20}
    return service(name, version, sizes, args=args, **ways)


@dataclass(kw_only=True)
class Total:
    """The replicas above target over all services, at their most."""

    sim: Simulation
    most: int = 0
    starts: list[str] = field(default_factory=list)

    def check(self, tick: Tick) -> None:
        above = 0
        for name, memory in tick.compiled.memory.services.items():
            if memory.stable is None:
                continue
            for listed in memory.wanted.revision.deployments:
                target, _ = self.sim.watch.truth.target(memory.wanted, listed.name)
                above += max(0, self.sim.serve.live(name, listed.name) - target)
        self.most = max(self.most, above)


shapes = st.tuples(
    st.sampled_from([{"Echo": 1}, {"Echo": 2}, {"Echo": 4}, {"Echo": 2, "Backend": 1}]),
    st.sampled_from([1, 2, "100%"]),
    st.sampled_from([0, 0, 1]),
)


async def _arrive(plans: list[tuple[Sizes, int | str, int]], limit: int, again: int) -> Total:
    sim = Simulation()
    total = Total(sim=sim)
    settings = ClusterSettings(max_services_moving=9, max_surge_replicas=limit)
    names = [f"s{number}" for number in range(len(plans))]

    def push(version: str, newer: int = 0) -> None:
        wanted = zip(names, plans, strict=True)
        made = (spec(name, "v3" if name in names[:newer] else version, *plan) for name, plan in wanted)
        sim.push(*made, settings=settings)

    await sim.start()
    push("v1")
    await sim.settle()
    sim.watch.further.append(total.check)
    push("v2")
    await sim.run(30)
    push("v2", newer=again)
    arrived = lambda: all(sim.memory(n).stable == sim.memory(n).wanted.revision.id for n in names)  # noqa: E731
    await sim.until(arrived, within=3000, what="everybody arrives")
    assert total.most <= limit, f"budget: {total.most} replicas above target, {limit} may be"
    return total


@lives
@given(plans=st.lists(shapes, min_size=2, max_size=4), limit=st.integers(2, 4), again=st.integers(0, 2))
async def test_no_more_surge_than_the_budget_and_everybody_arrives(
    plans: list[tuple[Sizes, int | str, int]], limit: int, again: int
) -> None:
    await _arrive(plans, limit, again)


async def test_handing_out_without_a_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[tuple[Sizes, int | str, int]] = [({"Echo": 2}, 1, 0), ({"Echo": 2}, 1, 0), ({"Echo": 2}, 1, 0)]
    await _arrive(plans, 1, 0)
    monkeypatch.setattr(policies.pacing, "ask", lambda view, held, limit: Grant(surge={}))
    with pytest.raises(AssertionError, match=r"^budget: \d replicas above target"):
        await _arrive(plans, 1, 0)


async def _turns() -> list[str]:
    """alpha moves; zeta asks, then beta: zeta has waited longer."""
    sim = Simulation()
    settings = ClusterSettings(max_surge_replicas=1)
    versions = dict.fromkeys(("alpha", "beta", "zeta"), "v1")

    def push(*names: str) -> None:
        versions.update(dict.fromkeys(names, "v2"))
        made = (spec(name, version, {"Echo": 2}, 1) for name, version in versions.items())
        sim.push(*made, settings=settings)

    await sim.start()
    push()
    await sim.settle()
    push("alpha")
    await sim.run(3)
    push("zeta")
    await sim.run(3)
    push("beta")
    await sim.run(3)
    assert sim.status("zeta").reason is Reason.CAPACITY_BUDGET
    assert "0 of budget.maxSurgeReplicas 1 left (held: alpha 1)" in sim.status("zeta").message
    await sim.until(lambda: all(sim.memory(name).stable == "v2" for name in versions), what="all arrive")
    started = [event for event in sim.watch.events if event.kind == "RolloutStarted" and event.revision == "v2"]
    return [event.service for event in started]


async def test_who_has_waited_longest_starts_first() -> None:
    assert await _turns() == ["alpha", "zeta", "beta"]


async def test_asking_by_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler.planning.plan, "in_turn", sorted)
    assert await _turns() == ["alpha", "beta", "zeta"]


@pytest.mark.parametrize("sizes", [{"Echo": (1, 2)}, {"Echo": (2, 4), "Backend": 1}], ids=["alone", "beside-another"])
async def test_who_cannot_stop_its_last_replica_first_waits_for_surge(sizes: Sizes) -> None:
    """Counts of an application with an autoscaled deployment go through Serve's document, which has no zero."""
    sim = Simulation()
    settings = ClusterSettings(max_surge_replicas=1)
    alpha = {version: spec("alpha", version, {"Echo": 2}, 1) for version in ("v1", "v2")}
    await sim.start()
    sim.push(alpha["v1"], spec("chat", "v1", sizes, 1, 1), settings=settings)
    await sim.settle()
    sim.push(alpha["v2"], spec("chat", "v1", sizes, 1, 1), settings=settings)
    await sim.run(3)
    sim.push(alpha["v2"], spec("chat", "v2", sizes, 1, 1), settings=settings)
    await sim.run(3)
    assert "0 of budget.maxSurgeReplicas 1 left (held: alpha 1)" in sim.status("chat").message
    await sim.until(lambda: sim.memory("chat").stable == "v2", what="it arrives")


async def test_a_budget_that_is_too_small_says_so() -> None:
    sim = Simulation()
    settings = ClusterSettings(max_surge_replicas=1)
    sizes: Sizes = {"Echo": 2, "Backend": 1}
    await sim.start()
    sim.push(spec("chat", "v1", sizes, 1), settings=settings)
    await sim.settle()
    sim.push(spec("chat", "v2", sizes, 1), settings=settings)
    await sim.run(10)
    assert sim.status().reason is Reason.CAPACITY_BUDGET
    assert "It can never start with so few" in sim.status().message
    sim.push(spec("chat", "v2", sizes, 1), settings=ClusterSettings(max_surge_replicas=2))
    await sim.until(lambda: sim.memory().stable == "v2", what="it arrives")


@pytest.mark.parametrize("limit", [1, 0])
async def test_a_single_replica_that_is_to_be_compared_waits_for_surge_if_there_can_be_any(limit: int) -> None:
    """Stopped before its successor starts, it would have nothing to be compared with, and wait for a person."""

    def chat(version: str) -> DesiredService:
        return service("chat", version, 1, surge=1, unavailable=1, steps=steps(50, "analysis 60"), scale_down=5)

    sim, settings = Simulation(), ClusterSettings(max_surge_replicas=limit)
    alpha = {version: spec("alpha", version, {"Echo": 2}, 1, 1 - limit) for version in ("v1", "v2")}
    await sim.start()
    sim.push(alpha["v1"], chat("v1"), settings=settings)
    await sim.settle()
    sim.push(alpha["v2"], chat("v1"), settings=settings)
    await sim.run(3)
    sim.push(alpha["v2"], chat("v2"), settings=settings)
    await sim.run(3)
    if limit:
        assert "0 of budget.maxSurgeReplicas 1 left (held: alpha 1)" in sim.status("chat").message
    await sim.until(lambda: sim.memory("chat").candidate == "v2", what="it starts")
    await sim.until(lambda: sim.weights("chat").get("v2", 0) > 0, what="it has requests")
    assert sim.weights("chat") == ({"v1": 50.0, "v2": 50.0} if limit else {"v2": 100.0})
