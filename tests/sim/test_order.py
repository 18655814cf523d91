"""Who may move when: dependencies, windows and places hold rollouts back, never what serves, and never for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.pacing
import policies.rollout
import policies.service
from reconciler.loop import Tick
from specs.decisions import EnterStep, Proceed, Promote, StartRollout
from specs.desired import ClusterSettings
from specs.reasons import Reason
from specs.status import Phase
from specs.windows import Window, is_open, read_window
from tests.builders import service, steps
from tests.sim.fake_clock import START
from tests.sim.scenarios import NAMES, Act, Shape, Story, Teller, stories
from tests.sim.test_properties import lives
from tests.sim.world import Simulation

OK = Shape(
    sizes={"Echo": 3}, surge=1, unavailable=0, steps=(10, "5", 50, "5"), min_ready=4, scale_down=0, code=("good",) * 4
)


def hours(begin: int, end: int, *, is_allowed: bool) -> Window:
    """Return a window from `begin` to `end`, in minutes of the story, each day."""
    first, last = (f"{(START + timedelta(minutes=minute)):%H:%M}" for minute in (begin, end))
    return read_window(f"daily {first}-{last}", is_allowed=is_allowed, zone="UTC")


@dataclass(kw_only=True)
class Order:
    """What is checked after every turn."""

    sim: Simulation
    started: list[str] = field(default_factory=list)
    _shares: dict[tuple[str, str], int] = field(default_factory=dict)

    def check(self, tick: Tick) -> None:
        desired = tick.world.desired
        if desired is None or not tick.world.observed.complete:
            return
        closed = not is_open(desired.settings.windows, tick.world.now)
        for name, decisions in tick.plan.decisions.items():
            before = tick.world.memory.services.get(name)
            for decision in decisions:
                if isinstance(decision, StartRollout) and not decision.is_fast:
                    assert not closed, f"window: {name} starts {decision.revision.id} outside"
                    self._check_needs(tick, name)
                    self.started.append(name)
                going = before is not None and before.stable is not None
                fast = before is not None and before.rollout is not None and before.rollout.is_fast
                if isinstance(decision, EnterStep | Promote) and going and not fast:
                    by_hand = isinstance(decision, EnterStep) and decision.by != "heliostat"
                    assert not closed or by_hand, f"window: {name} goes on outside: {decision}"
        if closed:
            self._check_shares(tick)
        self._shares = self._now(tick)

    def _check_needs(self, tick: Tick, name: str) -> None:
        for other in tick.plan.memory.services[name].wanted.depends_on:
            known = self.sim.known(other)
            wanted = tick.plan.memory.services[other].wanted.revision.id if known else "?"
            running = known is not None and known.stable == wanted and known.candidate is None
            serving = running and self.sim.watch.truth.is_serving(other, wanted)
            assert serving, f"order: {name} starts before {other} runs {wanted}"

    def _now(self, tick: Tick) -> dict[tuple[str, str], int]:
        return {
            (name, memory.candidate): self.sim.watch.weights(name).get(memory.candidate, 0)
            for name, memory in tick.compiled.memory.services.items()
            if memory.candidate and memory.stable and memory.rollout and not memory.rollout.is_fast
        }

    def _check_shares(self, tick: Tick) -> None:
        for (name, revision), share in self._now(tick).items():
            before = self._shares.get((name, revision), share)
            stable = tick.compiled.memory.services[name].stable
            lost = not self.sim.watch.truth.is_serving(name, stable or "")
            assert share <= before or lost, f"window: {name} gives {revision} {share} after {before} outside"


def told(story: Story, *, windows: tuple[Window, ...] = (), needs: bool = False, moving: int = 5) -> Teller:
    teller = Teller(story, moving=moving)
    teller.settings = replace(teller.settings, windows=windows)
    order = Order(sim=teller.sim)
    teller.sim.watch.further.append(order.check)
    if needs:
        teller.needs = {name: NAMES[:index] for index, name in enumerate(NAMES)}
    return teller


async def _tell(teller: Teller) -> None:
    try:
        await teller.tell()
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{teller.story}\n{teller.settings}\n{teller.sim.describe()}") from broken


minutes = st.integers(0, 12)
windows = st.lists(
    st.builds(
        lambda begin, length, allowed: hours(begin, begin + length, is_allowed=allowed),
        minutes,
        st.integers(1, 4),
        st.just(False),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@lives
@given(story=stories("push", "push", "revert", "abort", "promote", "rollback", "crash", services=2), closed=windows)
async def test_nothing_moves_outside_the_windows_and_all_arrives_in_them(
    story: Story, closed: tuple[Window, ...]
) -> None:
    await _tell(told(story, windows=closed))


@lives
@given(
    story=stories("push", "push", "revert", "promote", "full", "pause", "crash", services=3), limit=st.integers(1, 3)
)
async def test_dependants_wait_and_all_arrive(story: Story, limit: int) -> None:
    await _tell(told(story, needs=True, moving=limit))


def push(*, shapes: int = 1) -> Story:
    return Story(seed=0, shapes=(OK,) * shapes, acts=(Act(after=5, what="push", service=0, number=1),))


CLOSING = (hours(1, 6, is_allowed=False),)

Change = Callable[[pytest.MonkeyPatch], None]

BROKEN: tuple[tuple[str, Change, Callable[[], Teller], str], ...] = (
    (
        "windows are ignored",
        lambda patch: patch.setattr(policies.pacing, "is_open", lambda windows, at: True),
        lambda: told(push(), windows=CLOSING),
        "window",
    ),
    (
        "what stands still moves on to its step",
        lambda patch: patch.setattr(policies.service, "keep", policies.rollout.move),
        lambda: told(replace(push(), shapes=(replace(OK, steps=(90,)),)), windows=CLOSING),
        "window",
    ),
    (
        "nobody waits for anybody",
        lambda patch: patch.setattr(policies.pacing, "await_dependencies", lambda world, decision: None),
        lambda: told(push(shapes=2), needs=True),
        "order",
    ),
)


@pytest.mark.parametrize(("change", "make", "breaks"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
async def test_a_broken_rule_is_found(
    change: Change, make: Callable[[], Teller], breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make().tell()
    change(monkeypatch)
    with pytest.raises(AssertionError, match=rf"^{breaks}"):
        await make().tell()


async def _places() -> Simulation:
    """alpha pauses for a person, beta moves meanwhile; alpha is promoted while beta still moves. One place for both."""
    sim = Simulation()
    settings = ClusterSettings(max_services_moving=1)
    await sim.start()
    alpha, beta = service("alpha", "v1", steps=steps(50, "")), service("beta", "v1", steps=steps(50, "60"))
    sim.push(alpha, beta, settings=settings)
    await sim.settle()
    alpha, beta = service("alpha", "v2", steps=steps(50, "")), service("beta", "v2", steps=steps(50, "60"))
    sim.push(alpha, settings=settings)
    await sim.until(lambda: sim.status("alpha").reason is Reason.PAUSING, what="alpha pauses")
    sim.push(alpha, beta, settings=settings)
    await sim.until(lambda: sim.memory("beta").candidate == "v2", within=60, what="beta has a place")
    assert await sim.order("promote", "alpha") == ""
    await sim.until(lambda: sim.status("alpha").reason is Reason.SERVICES_MOVING, within=5, what="alpha waits")
    assert sim.status("alpha").weights == {"v1": 50.0, "v2": 50.0}
    await sim.settle()
    assert [sim.memory(name).stable for name in ("alpha", "beta")] == ["v2", "v2"]
    assert sim.watch.most_moving == 1, f"{sim.watch.most_moving} moved at once"
    return sim


async def test_a_rollout_that_waits_for_a_person_gives_its_place_up_and_asks_for_one_to_go_on() -> None:
    await _places()


async def test_a_rollout_that_is_suspended_gives_its_place_up() -> None:
    sim = Simulation()
    settings = ClusterSettings(max_services_moving=1)
    await sim.start()
    sim.push(service("alpha", "v1"), service("beta", "v1"), settings=settings)
    await sim.settle()
    held = service("alpha", "v2", steps=steps(50, "60"))
    sim.push(held, service("beta", "v1"), settings=settings)
    await sim.until(lambda: sim.memory("alpha").candidate == "v2", what="alpha moves")
    sim.push(service("alpha", "v2", steps=steps(50, "60"), suspend=True), service("beta", "v2"), settings=settings)
    await sim.until(lambda: sim.memory("beta").stable == "v2", within=300, what="beta moves meanwhile")
    assert sim.memory("alpha").candidate == "v2"
    sim.push(held, service("beta", "v2"), settings=settings)
    await sim.settle()
    assert sim.memory("alpha").stable == "v2"


async def test_a_rollout_that_lacks_requests_when_its_analysis_is_over_gives_its_place_up() -> None:
    sim = Simulation()
    settings = ClusterSettings(max_services_moving=1)
    await sim.start()
    quiet = {"analysis": {"min_requests": 10_000_000}}
    sim.push(service("alpha", "v1", **quiet), service("beta", "v1"), settings=settings)
    await sim.settle()
    alpha = service("alpha", "v2", steps=steps(50, "analysis 10"), **quiet)
    sim.push(alpha, service("beta", "v1"), settings=settings)
    await sim.until(lambda: sim.memory("alpha").candidate == "v2", what="alpha moves")
    sim.push(alpha, service("beta", "v2"), settings=settings)
    await sim.until(lambda: sim.memory("beta").stable == "v2", within=300, what="beta moves meanwhile")
    assert sim.memory("alpha").candidate == "v2"
    assert sim.status("alpha").reason is Reason.ANALYSIS_INCONCLUSIVE


async def test_keeping_a_place_while_standing_still_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.service, "_parked", lambda view: ())
    with pytest.raises(AssertionError, match="not within 60 s: beta has a place"):
        await _places()


async def test_going_on_without_a_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    veto = policies.pacing.Pace.veto
    free = lambda pace, decision: decision if isinstance(decision, Proceed) else veto(pace, decision)  # noqa: E731
    monkeypatch.setattr(policies.pacing.Pace, "veto", free)
    with pytest.raises(AssertionError, match="alpha waits"):
        await _places()


async def test_a_closed_window_holds_a_rollout_where_it_is_and_not_a_way_back() -> None:
    sim = Simulation()
    settings = ClusterSettings(windows=(hours(3, 20, is_allowed=False),))
    await sim.start()
    sim.push(service(version="v1", steps=steps(50, "60")), settings=settings)
    await sim.settle()
    sim.push(service(version="v2", steps=steps(50, "60", 80, "60")), settings=settings)
    await sim.until(lambda: sim.status().reason is Reason.OUTSIDE_WINDOW, what="it closes in the middle")
    weights = sim.weights()
    assert weights["v2"] > 0
    await sim.run(120)
    assert sim.weights() == weights
    assert sim.status().phase is Phase.BLOCKED
    assert "opens at Thu 2026-01-01 00:20 UTC" in sim.status().message
    assert await sim.order("abort") == ""
    await sim.until(lambda: sim.weights() == {"v1": 100.0}, within=240, what="the way back")


async def test_a_first_deployment_waits_for_what_it_needs() -> None:
    sim = Simulation()
    await sim.start()
    chat = service("chat", "v1", depends_on=("base",))
    sim.push(chat, service("base", "v1", args={"fail_build": "no module"}))
    await sim.until(lambda: bool((known := sim.known("base")) and known.quarantine), what="base fails")
    await sim.run(30)
    assert sim.memory("chat").candidate is None
    assert sim.status("chat").reason is Reason.DEPENDENCY_NOT_READY
    assert "base, whose v1 was taken back (BuildFailed)" in sim.status("chat").message
    sim.push(chat, service("base", "v2"))
    await sim.settle()
    assert sim.memory("chat").stable == "v1"


async def test_a_capacity_that_was_lost_is_put_back_while_the_window_is_closed() -> None:
    sim = Simulation()
    settings = ClusterSettings(windows=(hours(3, 30, is_allowed=False),))
    await sim.start()
    sim.push(service(version="v1", steps=steps(50, "600")), settings=settings)
    await sim.settle()
    sim.push(service(version="v2", steps=steps(50, "600")), settings=settings)
    await sim.until(lambda: sim.status().reason is Reason.OUTSIDE_WINDOW, what="it closes in the middle")
    weights, counts = sim.weights(), sim.counts()
    sim.somebody_removes_ours()
    await sim.until(lambda: sim.counts() == counts, within=120, what="put back")
    await sim.until(lambda: sim.weights() == weights, within=60, what="the same shares")


async def _replaced_by_what_waits() -> Simulation:
    """All the surge there is belongs to a rollout that nobody wants any more; the next one waits for who lacks it."""
    sim, tight = Simulation(), replace(ClusterSettings(), max_surge_replicas=1)
    await sim.start()
    base, chat = service("base", "v1"), service("chat", "v1", depends_on=("base",))
    sim.push(base, chat, settings=tight)
    await sim.settle()
    sim.push(base, service("chat", "v2", steps=steps(30, "900"), depends_on=("base",)), settings=tight)
    await sim.until(lambda: sim.weights("chat").get("v2", 0) > 0, what="the candidate has requests")
    third = service("chat", "v3", steps=steps(30), depends_on=("base",))
    sim.push(service("base", "v2"), third, settings=tight)
    await sim.settle(within=2400)
    return sim


async def test_a_rollout_whose_successor_waits_keeps_nothing_from_what_that_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim = await _replaced_by_what_waits()
    assert (sim.memory("base").stable, sim.memory("chat").stable) == ("v2", "v3")
    assert sim.memory("chat").quarantined("v2") is None
    monkeypatch.setattr(policies.service, "give_up_meanwhile", lambda view, held: None)
    with pytest.raises(AssertionError, match="not within 2400 s"):
        await _replaced_by_what_waits()
