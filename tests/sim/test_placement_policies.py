"""Placement policies of other packages: replicas go where they wish, slowly, and never where the spec forbids it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.layout
import policies.placing
from policies.placing import KEPT, TAKEN_UP_AFTER, followed, zone_weights
from policies.view import ServiceView
from reconciler.errors import Retry
from reconciler.loop import Tick
from specs.cells import parse_cell_name
from specs.placement import Market, Placement, Site
from specs.reasons import Reason
from specs.wishes import Apportion, Stand
from specs.world import World
from tests.builders import zones
from tests.sim.fake_advisers import Policy, hostile
from tests.sim.test_markets import of_markets, on, per_market
from tests.sim.test_policies import always
from tests.sim.test_properties import lives
from tests.sim.test_zones import Life, Turn, bounds, deployed, give_back, lose, over_zones, per_zone, spec, turns, ways
from tests.sim.test_zones import sizes as zone_sizes
from tests.sim.world import Simulation


def wished(placement: Placement | None = None, policy: str = "cheap") -> Placement:
    return replace(placement or zones(), policy=policy)


def over(*letters: str, says: object, **options: Any) -> Simulation:
    """Return a simulation over zones with a policy that always says the same."""
    sim = over_zones(*letters, **options)
    sim.advisers.policies["placement.cheap"] = always(says)
    return sim


def says(sim: Simulation, answer: object) -> None:
    sim.advisers.policies["placement.cheap"] = always(answer)


def _is(sim: Simulation, **counts: int) -> Any:
    return lambda: per_zone(sim) == counts


async def test_replicas_go_where_a_policy_wishes_and_status_and_events_say_so() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 3, "b": 2}, message="a is cheap today"))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=3, b=2, c=1), within=120, what="by weight")
    await sim.settle()
    found = sim.status().placing
    assert found is not None
    assert (found.policy, found.zones, found.message, found.note) == ("cheap", {"a": 3, "b": 2}, "a is cheap today", "")
    told = [event.message for event in sim.events() if event.kind == "PlacementWished"]
    assert told == ["policy cheap wishes zones a 3, b 2: a is cheap today"]


async def test_status_says_who_wishes_that_replicas_move() -> None:
    sim = over("a", "b", "c", says=Stand())
    await deployed(sim, spec(placement=wished(), surge=1))
    says(sim, Apportion(zones={"a": 9}))
    await sim.until(lambda: sim.status().reason is Reason.MOVING, within=60, what="they move")
    assert sim.status().message.startswith("replicas move, says policy cheap: a has 2 Echo of ")


async def test_a_zone_is_avoided_through_rollouts_and_used_when_the_others_are_lost() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"c": 0}, message="it is hot"))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=3, b=3), within=180, what="c is left")
    await sim.settle()
    message = next(zone.message for zone in sim.status().zones if zone.zone == "c")
    assert message == "policy cheap avoids it: it is hot"
    sim.watch.further.append(lambda tick: _nothing_in(sim, "c"))
    sim.push(spec("v2", placement=wished()))
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_zone(sim) == {"a": 3, "b": 3}
    sim.watch.further.clear()
    lose(sim, "a")
    lose(sim, "b")
    await sim.until(_is(sim, c=6), within=120, what="c is better than nowhere")
    for zone in "ab":
        give_back(sim, zone)
    await sim.until(_is(sim, a=3, b=3), within=900, what="c is left again")


def _nothing_in(sim: Simulation, zone: str) -> None:
    assert not per_zone(sim).get(zone), sim.describe()


async def test_what_has_no_room_elsewhere_goes_where_it_is_avoided() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"c": 0}), nodes=1, cpus=3)
    await deployed(sim, spec(placement=wished(), surge=1, size=7))
    assert per_zone(sim)["c"] >= 1
    await sim.run(int((TAKEN_UP_AFTER + KEPT).total_seconds()))
    assert sum(per_zone(sim).values()) == 7, sim.describe()


async def test_fewer_zones_than_the_spec_wants_are_never_in_use() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"b": 0, "c": 0}))
    await deployed(sim, spec(placement=wished(zones(least=2))))
    await sim.until(lambda: sorted(per_zone(sim).values()) == [1, 5], within=240, what="two zones")
    await sim.settle()
    sim.push(spec("v2", placement=wished(zones(least=2))))
    await sim.settle()
    assert sorted(per_zone(sim).values()) == [1, 5]
    assert per_zone(sim)["a"] == 5


async def test_who_avoids_everything_avoids_nothing() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 0, "b": 0, "c": 0}))
    await deployed(sim, spec(placement=wished()))
    await sim.run(60)
    assert per_zone(sim) == {"a": 2, "b": 2, "c": 2}


async def test_what_the_spec_excludes_stays_excluded() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"c": 9}))
    sim.watch.further.append(lambda tick: _nothing_in(sim, "c"))
    await deployed(sim, spec(placement=wished(zones(exclude=("c",)))))
    await sim.run(60)
    assert per_zone(sim) == {"a": 3, "b": 3}


async def test_what_is_kept_ready_for_the_loss_of_a_zone_is_not_for_a_policy() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"c": 0}))
    await deployed(sim, spec(size=4, placement=wished(zones(tolerate=True))))
    await sim.run(60)
    assert per_zone(sim) == {"a": 2, "b": 2, "c": 2}
    found = sim.status().placing
    assert found is not None
    assert found.note == "its zones are not followed: zoneFailure tolerate needs them even"


async def test_autoscaled_services_have_their_bounds_divided_by_weight() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 4}))
    await deployed(sim, spec(size={"Echo": (6, 12)}, placement=wished()))
    await sim.until(lambda: bounds(sim) == {"a": (4, 8), "b": (1, 2), "c": (1, 2)}, within=120, what=f"{bounds(sim)}")
    await sim.settle()
    says(sim, Apportion(zones={"c": 0}))
    await sim.run(TAKEN_UP_AFTER.total_seconds())
    await sim.until(lambda: bounds(sim) == {"a": (3, 6), "b": (3, 6)}, within=300, what="c is left")
    await sim.settle()


async def test_a_policy_raises_the_part_that_is_on_demand_and_never_lowers_it() -> None:
    sim = of_markets("a", "b")
    says(sim, Apportion(on_demand=50))
    stays: list[int] = []
    await deployed(sim, spec(size=6, placement=wished(on(2))))
    await sim.until(lambda: per_market(sim) == {"spot": 3, "on-demand": 3}, within=240, what="half")
    sim.watch.further.append(lambda tick: stays.append(per_market(sim)[Market.ON_DEMAND]))
    says(sim, Apportion(on_demand=0))
    await sim.run(TAKEN_UP_AFTER.total_seconds())
    await sim.until(lambda: per_market(sim) == {"spot": 4, "on-demand": 2}, within=240, what="the base")
    await sim.run(60)
    assert min(stays) == 2


@pytest.mark.parametrize("answer", [None, {"apportion": {"zones": {"a": -1}}}, Retry("no answer within 5 s")])
async def test_a_policy_that_fails_is_followed_for_a_while_and_then_replicas_are_spread(answer: object) -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 9}))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=4, b=1, c=1), within=180, what="by weight")
    await sim.settle()
    says(sim, answer)
    await sim.run(KEPT.total_seconds() - 30)
    assert per_zone(sim) == {"a": 4, "b": 1, "c": 1}
    found = sim.status().placing
    assert found is not None
    assert "; what it wished last is kept for " in found.note
    assert [event.kind for event in sim.events()].count("PolicyFailed") == 1
    await sim.until(_is(sim, a=2, b=2, c=2), within=300, what="as without it")
    told = [event.message for event in sim.events() if event.kind == "PlacementWished"]
    assert told[-1] == "nothing of use comes from policy cheap any more: replicas are spread as without it"
    sim.push(spec("v2", placement=wished()))
    await sim.settle()
    assert sim.memory().stable == "v2", "the built-in goes on"
    says(sim, Apportion(zones={"b": 9}))
    await sim.until(_is(sim, a=1, b=4, c=1), within=1200, what="it is heard again")


async def test_a_restarted_daemon_moves_nothing_before_it_has_heard_the_policy() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 9}))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=4, b=1, c=1), within=180, what="by weight")
    await sim.settle()
    sim.kill()
    says(sim, Retry("its process has just begun"))
    before = len(sim.events())
    await sim.run(60)
    assert per_zone(sim) == {"a": 4, "b": 1, "c": 1}
    assert [event.kind for event in sim.events()[before:]] == ["PolicyFailed"]


async def test_a_policy_that_changes_its_mind_is_followed_slowly() -> None:
    sim = over("a", "b", "c", says=Stand())
    sim.advisers.policies["placement.cheap"] = _fickle
    await deployed(sim, spec(placement=wished()))
    began = sim.clock.now()
    await sim.run(3 * TAKEN_UP_AFTER.total_seconds())
    told = [event for event in sim.events() if event.kind == "PlacementWished"]
    assert 2 <= len(told) <= 1 + (sim.clock.now() - began) / TAKEN_UP_AFTER
    found = sim.status().placing
    assert found is not None
    sim.push(spec("v2", placement=wished()))
    await sim.until(lambda: sim.memory().stable == "v2", within=300, what="it arrives all the same")


def _fickle(world: World, name: str) -> Apportion:
    return Apportion(zones={"abc"[int(world.now.timestamp()) // 16 % 3]: 9})


async def test_one_that_the_spec_no_longer_names_is_forgotten() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 9}))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=4, b=1, c=1), within=180, what="by weight")
    sim.push(spec())
    await sim.until(_is(sim, a=2, b=2, c=2), within=180, what="even again")
    await sim.settle()
    assert sim.memory().placing is None
    assert sim.status().placing is None


async def test_one_that_nobody_enabled_is_an_error_and_starts_no_rollout() -> None:
    sim = over("a", "b", "c", says=Stand())
    await deployed(sim, spec())
    sim.push(spec("v2", placement=wished(policy="chaep")))
    await sim.run(5)
    assert sim.status().reason is Reason.POLICY_UNKNOWN
    assert 'placement.policy is "chaep", which is not enabled: there are spread, cheap.' in sim.status().message
    assert per_zone(sim) == {"a": 2, "b": 2, "c": 2}


# -- each rule, broken, is found -----------------------------------------------------------------------------


def _only_what_is_liked(view: ServiceView, revision: str, wanted: Any, ranked: Sequence[Site]) -> Sequence[Site]:
    return [zone for zone in ranked if zone_weights(view).get(zone.zone or "", 1)]


def _every_zone(view: ServiceView, revision: str) -> list[Site]:
    return [Site(zone=zone) for zone in "abc"]


def _as_wished(view: ServiceView, total: int) -> int:
    placing = followed(view)
    return -(-total * placing.on_demand // 100) if placing is not None else 2


Rule = Callable[[], Awaitable[None]]
MUTATIONS: dict[str, tuple[Any, str, Any, Rule]] = {
    "taken up at once": (
        policies.placing,
        "TAKEN_UP_AFTER",
        timedelta(0),
        test_a_policy_that_changes_its_mind_is_followed_slowly,
    ),
    "dropped at once": (
        policies.placing,
        "KEPT",
        timedelta(0),
        test_a_restarted_daemon_moves_nothing_before_it_has_heard_the_policy,
    ),
    "as few zones as wished": (
        policies.layout,
        "_in_use",
        _only_what_is_liked,
        test_fewer_zones_than_the_spec_wants_are_never_in_use,
    ),
    "in zones that are excluded": (
        policies.layout,
        "_able",
        _every_zone,
        test_what_the_spec_excludes_stays_excluded,
    ),
    "a base as small as wished": (
        policies.layout,
        "least_on_demand",
        _as_wished,
        test_a_policy_raises_the_part_that_is_on_demand_and_never_lowers_it,
    ),
    "no zone to spare": (
        policies.placing,
        "needs_even_zones",
        lambda view: False,
        test_what_is_kept_ready_for_the_loss_of_a_zone_is_not_for_a_policy,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, what, value, rule = MUTATIONS[name]
    monkeypatch.setattr(module, what, value)
    with pytest.raises(AssertionError):
        await rule()


async def test_a_machine_that_comes_up_with_an_older_time_keeps_the_wish_of_a_policy_that_is_gone_no_longer() -> None:
    sim = over("a", "b", "c", says=Apportion(zones={"a": 9}))
    await deployed(sim, spec(placement=wished()))
    await sim.until(_is(sim, a=4, b=1, c=1), within=180, what="by weight")
    await sim.settle()
    del sim.advisers.policies["placement.cheap"]
    await sim.run(30)
    sim.kill()
    sim.forget_time()
    sim.clock_jumps(-timedelta(hours=1))
    await sim.until(_is(sim, a=2, b=2, c=2), within=KEPT.total_seconds() + 120, what="as without it")


# -- hostile ones ------------------------------------------------------------------------------------------


class WishedLife(Life):
    """Any life of a service over zones, whose placement policy is hostile until all trouble ends."""

    def __init__(self, size: Any, way: dict[str, Any], seed: int, least: int) -> None:
        super().__init__(size, way, tolerate=False)
        self.least, self.policy = least, "foe"
        self.sim.advisers.policies["placement.foe"] = _now_and_then(hostile(seed, "placement"))
        self._changes: list[Any] = []

    def push(self) -> None:
        placement = wished(zones(self.least, exclude=self.excluded), self.policy)
        self.sim.push(spec(f"v{self.version}", self.size, placement, deadline=120, **self.way))

    async def _end(self) -> None:
        self.policy = "spread"
        await super()._end()

    def _check(self, tick: Tick) -> None:
        super()._check(tick)
        memory = tick.compiled.memory.services.get("chat")
        if memory is None:
            return
        since = memory.placing.since if memory.placing is not None else None
        if since is not None and since not in self._changes:
            calm = not self._changes or since - self._changes[-1] >= min(TAKEN_UP_AFTER, KEPT)
            assert calm, f"P1: taken up again after {since - self._changes[-1]}"
            self._changes.append(since)
        self._check_zones(tick)

    def _check_zones(self, tick: Tick) -> None:
        """Cells begin only in zones that the spec allows, as the daemon has read it."""
        for decisions in tick.plan.decisions.values():
            for decision in decisions:
                key = getattr(decision, "cell", None) if type(decision).__name__ == "StartRevision" else None
                found = parse_cell_name(key.name) if key is not None else None
                wanted = tick.plan.memory.services["chat"].wanted.placement.zones
                assert found is None or wanted is None or wanted.allows(found.zone or ""), f"P2: {found}"


def _now_and_then(policy: Policy) -> Policy:
    """Let a policy be sound for long enough now and then that it is followed at all."""
    dice = Random(7)

    def ask(world: World, name: str) -> object:
        return (
            Apportion(zones={dice.choice("abc"): dice.choice([0, 0, 5])})
            if dice.random() < 0.5
            else policy(world, name)
        )

    return ask


@lives
@given(
    size=zone_sizes,
    way=ways,
    seed=st.integers(0, 99),
    least=st.sampled_from([1, 1, 2]),
    told=st.lists(turns, min_size=1, max_size=5),
)
async def test_a_hostile_placement_policy_breaks_nothing(
    size: Any, way: dict[str, Any], seed: int, least: int, told: list[Turn]
) -> None:
    counts = size.values() if isinstance(size, dict) else [size]
    if way.get("surge") == 0 and (isinstance(size, tuple) or 1 in counts):
        way = {"surge": 1}
    life = WishedLife(size, way, seed, least)
    try:
        await life.tell(told)
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{size} {way} {seed} {told}\n{life.sim.describe()}") from broken


async def _an_hour_with(policy: Policy) -> None:
    told = [
        Turn(after=60, what="choose", zone="a", number=0),
        Turn(after=3, what="push", zone="a", number=0),
        *(Turn(after=60, what=what, zone="b", number=0) for what in ("push", "crash", "push")),
    ]
    life = WishedLife(4, {"surge": 2}, 3, 1)
    life.sim.advisers.policies["placement.foe"] = policy
    await life.tell(told)


LIKES_A = always(Apportion(zones={"b": 0, "c": 0}))
FOE = _now_and_then(hostile(3, "placement"))


@pytest.mark.parametrize(
    ("broken", "policy", "found"),
    [
        ((policies.placing, "TAKEN_UP_AFTER", timedelta(0)), FOE, "P1"),
        ((policies.layout, "_able", _every_zone), LIKES_A, "P2"),
    ],
)
async def test_what_hostile_policies_must_not_reach_is_found_where_they_do(
    broken: tuple[Any, str, Any], policy: Policy, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _an_hour_with(policy)
    monkeypatch.setattr(*broken)
    with pytest.raises(AssertionError, match=found):
        await _an_hour_with(policy)
