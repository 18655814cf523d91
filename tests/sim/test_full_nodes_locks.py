"""Rollouts on full nodes of which each holds what another one waits for: all arrive, and all can be taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.room
import policies.service
from specs.reasons import Reason
from tests.sim.crowds import Crowd
from tests.sim.fake_nodes import make_node
from tests.sim.test_properties import SEEDS, lives

pytestmark = pytest.mark.timeout(max(300, SEEDS * 30))

# -- lives -------------------------------------------------------------------------------------------------


async def _arrives(crowd: Crowd) -> None:
    """Roll all of them out at once."""
    await crowd.start()
    await crowd.roll_out()
    await crowd.all_arrive()


async def _is_taken_back(crowd: Crowd, after: int, number: int = 0) -> None:
    """Abort one of those that are under way after a while; the others arrive."""
    await crowd.start()
    await crowd.roll_out()
    await crowd.sim.run(after)
    moving = [name for name in crowd.names if crowd.sim.memory(name).candidate is not None]
    aborted = moving[number % len(moving)] if moving else None
    if aborted is not None:
        await crowd.is_taken_back(aborted)
    await crowd.all_arrive(*(name for name in crowd.names if name != aborted))


async def _is_taken_back_beside_a_canary(crowd: Crowd, later: int, after: int) -> None:
    """Abort the first one while the second one has begun, and stands at its first step until somebody says promote."""
    await crowd.start()
    await crowd.roll_out("s0")
    await crowd.sim.run(later)
    await crowd.roll_out("s1")
    await crowd.sim.run(after)
    aborted = crowd.sim.memory("s0").candidate is not None
    if aborted:
        await crowd.is_taken_back("s0")
    for _ in range(20):
        await crowd.sim.run(100)
        await crowd.sim.order("promote", "s1")
    await crowd.all_arrive("s1", *(() if aborted else ("s0",)))


async def _first_deployment_waits(crowd: Crowd, after: int) -> None:
    """Bring a service that was not there before while the others are under way."""
    await crowd.start()
    await crowd.roll_out()
    await crowd.sim.run(after)
    crowd.come_late()
    await crowd.all_arrive()


# -- rollouts ----------------------------------------------------------------------------------------------

LOCKS = {
    "three, two of them at a part": lambda: Crowd(
        sizes=[{"Backend": 1, "Echo": 2}, {"Echo": 2, "Backend": 2}, {"Backend": 2, "Echo": 3}], spare=2
    ),
    "two at a half": lambda: Crowd(sizes=[{"Backend": 2, "Echo": 2}, {"Backend": 2, "Echo": 1}], spare=2, apart=7),
}


@pytest.mark.parametrize("lock", LOCKS)
async def test_rollouts_that_have_requests_let_go_what_those_do_not_need(lock: str) -> None:
    crowd = LOCKS[lock]()
    await _arrives(crowd)
    assert crowd.gave_way()


@pytest.mark.parametrize("lock", LOCKS)
async def test_not_counting_on_what_requests_do_not_need_is_found(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.room, "_surplus", lambda view: ())
    with pytest.raises(AssertionError, match="at v2"):
        await _arrives(LOCKS[lock]())


def _alone() -> Crowd:
    return Crowd(sizes=[{"Echo": 4, "Backend": 4}], spare=2, surges=[3])


async def test_a_rollout_that_got_room_for_one_deployment_only_goes_on_with_less_surge() -> None:
    crowd = _alone()
    await _arrives(crowd)
    limited = [event for event in crowd.sim.watch.events if event.kind == "SurgeLimited"]
    assert [event.message for event in limited] == ["no room on the nodes for more: one at a time (Backend, Echo)"]


async def test_a_rollout_that_holds_itself_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.service, "holds_itself_up", lambda view: False)
    with pytest.raises(AssertionError, match="at v2"):
        await _arrives(_alone())


some_sizes = st.fixed_dictionaries(
    {"Echo": st.integers(1, 3)}, optional={"Backend": st.integers(1, 3), "Third": st.integers(1, 2)}
)


@st.composite
def crowds(draw: st.DrawFn, most: int = 3, late: bool = False) -> Crowd:
    """Return services each of which could be rolled out if it were alone."""
    sizes = draw(st.lists(some_sizes, min_size=2, max_size=most))
    return Crowd(
        sizes=sizes,
        spare=max(map(len, sizes)) + draw(st.integers(0, 1)),
        surges=[draw(st.sampled_from([1, 1, 2, 3])) for _ in sizes],
        steps=[draw(st.sampled_from([(50,), (10, 50), (25, "20", 75)])) for _ in sizes],
        apart=draw(st.sampled_from([0, 1, 7, 40])),
        late=draw(some_sizes) if late else None,
    )


@lives
@given(crowd=crowds())
async def test_all_arrive(crowd: Crowd) -> None:
    await _arrives(crowd)


# -- ways back ---------------------------------------------------------------------------------------------


def _two() -> Crowd:
    three = {"Echo": 1, "Backend": 2, "Third": 3}, {"Echo": 2, "Backend": 2, "Third": 2}
    return Crowd(sizes=three, spare=4, apart=40)


async def test_a_way_back_that_has_no_room_lets_another_one_move_first() -> None:
    await _is_taken_back(_two(), 131)


async def test_a_way_back_that_never_stands_aside_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.room, "_is_returning", lambda view: False)
    with pytest.raises(AssertionError, match="s0 is back"):
        await _is_taken_back(_two(), 131)


def _canary() -> Crowd:
    sizes = {"Echo": 4, "Backend": 4}, {"Echo": 3, "Backend": 2}
    return Crowd(sizes=sizes, spare=2, steps=[(50, "30"), (10, "")])


async def test_a_canary_gives_its_requests_back_for_a_way_back_and_begins_again() -> None:
    crowd = _canary()
    await _is_taken_back_beside_a_canary(crowd, 76, 70)
    gave = [event for event in crowd.gave_way() if "gives its requests back" in event.message]
    assert [event.service for event in gave] == ["s1"]
    steps = [event.message for event in crowd.sim.events("s1") if event.kind == "StepEntered"]
    assert len(steps) > len(set(steps)), "it did not begin again"


async def test_a_canary_that_stands_in_the_way_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.room, "_can_go_back", lambda view: False)
    with pytest.raises(AssertionError, match="s0 is back"):
        await _is_taken_back_beside_a_canary(_canary(), 76, 70)


@lives
@given(crowd=crowds(), after=st.integers(20, 300), number=st.integers(0, 2))
async def test_whatever_is_aborted_is_taken_back(crowd: Crowd, after: int, number: int) -> None:
    await _is_taken_back(crowd, after, number)


# -- first deployments ---------------------------------------------------------------------------------------


def _pausing() -> Crowd:
    """Return two that stand at 50% while a third one takes all the room there is, and go on before it serves."""
    sizes = {"Echo": 1, "Backend": 2}, {"Echo": 1, "Backend": 2}
    return Crowd(sizes=sizes, spare=2, steps=[(50, "40"), (50, "40")], late={"Echo": 3})


async def test_a_first_deployment_does_not_take_for_good_what_rollouts_wait_for() -> None:
    crowd = _pausing()
    await _first_deployment_waits(crowd, 20)
    assert "late" in {event.service for event in crowd.gave_way()}


async def test_a_first_deployment_that_goes_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.room, "_is_first", lambda view: False)
    with pytest.raises(AssertionError, match="at v2"):
        await _first_deployment_waits(_pausing(), 20)


@lives
@given(crowd=crowds(late=True), after=st.integers(0, 200))
async def test_all_arrive_beside_a_first_deployment(crowd: Crowd, after: int) -> None:
    await _first_deployment_waits(crowd, after)


# -- when there is less room than there was ------------------------------------------------------------------


async def _locked() -> Crowd:
    """Take, for good, what both of two rollouts need to go on and to go back: before either has asked for it."""
    crowd = _pausing()
    await crowd.start()
    await crowd.roll_out()
    await crowd.sim.run(20)
    crowd.come_late(loading=2)
    await crowd.sim.until(lambda: crowd.sim.status("s0").reason is Reason.INSUFFICIENT_RESOURCES, within=300)
    await crowd.sim.run(60)
    return crowd


async def test_a_lock_that_nothing_can_undo_says_what_does() -> None:
    crowd = await _locked()
    way_out = "room for one replica more, or maxUnavailable in its spec, lets one go on"
    assert f"s1 waits for room, too, and none can let go what it holds: {way_out}" in crowd.sim.status("s0").message
    crowd.sim.nodes.add(make_node(90, "a", cpus=1))
    await crowd.all_arrive()


async def test_leave_to_be_short_undoes_a_lock_also_for_a_way_back() -> None:
    crowd = await _locked()
    assert not await crowd.sim.order("abort", "s0")
    await crowd.sim.run(60)
    assert "50% go back to v1 when it has room" in crowd.sim.status("s0").message
    assert crowd.sim.weights("s0") == {"v1": 50.0, "v2": 50.0}
    crowd.unavailable = 1
    await crowd.roll_out("s0")
    await crowd.all_arrive("s1", "late")
    assert crowd.sim.weights("s0") == {"v1": 100.0}
