"""Any life of a service over zones and markets, while spot nodes go with and without notice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.layout
from specs.placement import Market, SiteState, market_of
from tests.sim.test_markets import of_markets, on, per_market, reclaim, spot_nodes
from tests.sim.test_preemption import Cloud
from tests.sim.test_properties import lives
from tests.sim.test_zones import Turn, give_back, per_zone, spec

turns = st.builds(
    Turn,
    after=st.sampled_from([0, 3, 20, 60]),
    what=st.sampled_from(["push", "push", "scale", "base", "notice", "notice", "reclaim", "zone", "back", "abort"]),
    zone=st.sampled_from("ab"),
    number=st.integers(0, 7),
)
sizes = st.one_of(
    st.integers(1, 7),
    st.fixed_dictionaries({"Echo": st.integers(1, 6), "Backend": st.integers(1, 3)}),
    st.tuples(st.integers(2, 4), st.integers(0, 3)).map(lambda pair: (pair[0], sum(pair))),
)


class Life:
    """A service over two zones of two markets, and whatever happens to it."""

    def __init__(self, size: Any, base: int) -> None:
        self.sim = of_markets("a", "b")
        self.size, self.base, self.version = size, base, 1
        self.cloud = Cloud(self.sim)

    def push(self) -> None:
        self.sim.push(spec(f"v{self.version}", self.size, on(self.base), surge=2, deadline=240))

    async def tell(self, told: list[Turn]) -> None:
        await self.sim.start()
        self.push()
        await self.cloud.run(20)
        for turn in told:
            await self.cloud.run(turn.after)
            self.sim.watch.log.append(f"{self.sim.clock.now():%H:%M:%S} -- {turn.what} {turn.zone} {turn.number}")
            await self._do(turn)
        await self.cloud.run(70)
        await self._end()

    async def _do(self, turn: Turn) -> None:
        there = [node for node in spot_nodes(self.sim, turn.zone) if self.sim.nodes.nodes[node].is_alive]
        match turn.what:
            case "push":
                self.version += 1
                self.push()
            case "scale" if isinstance(self.size, int):
                self.size = turn.number % 7 + 1
                self.push()
            case "base":
                self.base = turn.number
                self.push()
            case "notice" if there:
                await self.cloud.tell(there[turn.number % len(there)], seconds=60 if turn.number % 2 else 30)
            case "reclaim" if there:
                reclaim(self.sim, there[turn.number % len(there)])
            case "zone":
                reclaim(self.sim, *[node.id for node in self.sim.nodes.nodes.values() if node.zone == turn.zone])
            case "back":
                give_back(self.sim, turn.zone)
            case "abort":
                await self.sim.order("abort")

    async def _end(self) -> None:
        """All nodes are back: the last version wins, the base is exact, and the zones are even."""
        sim = self.sim
        await self.cloud.run(15)
        for zone in "ab":
            give_back(sim, zone)
        self.version += 1
        self.push()
        await sim.until(lambda: sim.memory().stable == f"v{self.version}", within=2400, what="the last version")
        await sim.until(
            lambda: [entry.state for entry in sim.memory().sites] == [SiteState.OPEN] * 4,
            within=3000,
            what="all sites are believed",
        )
        await sim.settle(within=2400)
        assert not any(self.cloud.on_doomed) or not isinstance(self.size, int) or self.size < 2
        for cell in sim.memory().cells_of(sim.memory().stable):
            homes = [r.node for d in sim.serve.instance.applications[cell.key.name].all_deployments for r in d.replicas]
            labels = [sim.nodes.nodes[node].labels for node in homes if node is not None]
            assert {market_of(found) for found in labels} <= {cell.key.market}, "M1: a replica is in another market"
        if isinstance(self.size, int):
            wanted = min(self.base, self.size)
            assert per_market(sim)[Market.ON_DEMAND] == wanted, f"M2: {per_market(sim)}, base {self.base}"
            counts = [per_zone(sim).get(zone, 0) for zone in "ab"]
            assert max(counts) - min(counts) <= 1, f"Z1: {counts}"


@lives
@given(size=sizes, base=st.integers(0, 4), told=st.lists(turns, min_size=1, max_size=7))
async def test_whatever_happens_to_spot_nodes(size: Any, base: int, told: list[Turn]) -> None:
    life = Life(size, base)
    try:
        await life.tell(told)
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{size} {base} {told}\n{life.sim.describe()}") from broken


async def _waits_beside_an_outgoing_revision() -> None:
    """The candidate waits for the Backend that an outgoing revision has, and would go where the stable one is."""
    life = Life({"Echo": 5, "Backend": 1}, 2)
    wanted = [(0, "push", "a", 0), (0, "push", "a", 4), (0, "push", "a", 7), (0, "notice", "b", 2)]
    wanted += [(60, "reclaim", "b", 2), (3, "push", "a", 6), (0, "push", "a", 5)]
    await life.tell([Turn(after=after, what=what, zone=zone, number=number) for after, what, zone, number in wanted])


async def test_the_stable_revision_makes_no_way_for_a_candidate_that_has_no_room_yet() -> None:
    await _waits_beside_an_outgoing_revision()


async def test_making_way_for_who_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.layout, "_is_begun", lambda view, revision: True)
    with pytest.raises(AssertionError, match=r"^I9: chat\.v1\.b\.on-demand\.\d+ is made .* to and fro"):
        await _waits_beside_an_outgoing_revision()


async def test_a_draining_cell_that_takes_the_requests_of_lost_ones_is_not_retired_in_the_same_look() -> None:
    life = Life({"Echo": 2, "Backend": 2}, 4)
    wanted = [(20, "reclaim", "b", 4), (3, "push", "a", 6), (20, "zone", "b", 4)]
    await life.tell([Turn(after=after, what=what, zone=zone, number=number) for after, what, zone, number in wanted])
