"""One World in, one Plan out; and what people read of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import Plan, make_plan
from reconciler.planning.report import Circumstances, report
from specs.decisions import Hold, PauseRollout, RestoreCell, SetWeights, StartRollout
from specs.desired import ClusterSettings, SpecError
from specs.memory import Memory, OutgoingCause, Quarantined
from specs.observed import Observed
from specs.reasons import Reason
from specs.routes import FULL
from specs.status import ClusterStatus, Health, Phase, ServiceStatus, Sync
from specs.world import World
from tests.builders import GATEWAY_URL, NOW, SETTLED, cell, desired, seconds, service, steps, world

SURROUNDINGS = Surroundings(gateway_url=GATEWAY_URL)
CALM = Circumstances(cluster="test", is_leader=True, problems={})
QUARANTINED = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no module", at=NOW)


def plan(made: World, **orders: Any) -> Plan:
    return make_plan(made, SURROUNDINGS, orders or None)


def steady(version: str = "v1", **memory: Any) -> World:
    return world(service(version=version), cell("v1", ready=3, weight=FULL), stable="v1", **memory)


def pausing(**memory: Any) -> World:
    spec = service(version="v2", sizes=2, steps=steps(50, "60"))
    cells = cell("v1", ready=1, weight=5000), cell("v2", ready=1, weight=5000)
    reached = {"reached_at": NOW - seconds(20)}
    return world(spec, *cells, stable="v1", candidate="v2", step=1, rollout=reached, **memory)


def told(made: World, about: Circumstances = CALM, last: ClusterStatus | None = None) -> ServiceStatus:
    planned = plan(made)
    return report(planned, planned.memory, about, last).services[0]


def test_a_settled_world_is_held_with_a_reason() -> None:
    planned = plan(steady())
    assert planned.is_quiet
    (hold,) = planned.decisions["chat"]
    assert isinstance(hold, Hold)
    assert hold.reason is Reason.STEADY


def lost(**memory: Any) -> World:
    return world(service(), cell("v1", seen=False, weight=FULL, was_seen=True, **memory), stable="v1")


def test_a_cell_that_somebody_took_away_is_put_back_at_once() -> None:
    planned = plan(lost())
    assert [event.kind for event in planned.events] == ["CellRestored"]
    assert planned.memory.services["chat"].cells[0].restores == 1


@pytest.mark.parametrize(("restores", "ago", "is_due"), [(1, 1.9, False), (1, 2, True), (3, 7, False), (9, 60, True)])
def test_who_takes_a_cell_away_again_and_again_is_answered_slowly(restores: int, ago: float, is_due: bool) -> None:
    decisions = plan(lost(restores=restores, restored_at=NOW - seconds(ago))).decisions["chat"]
    assert any(isinstance(decision, RestoreCell) for decision in decisions) == is_due
    drifted = [one for one in decisions if isinstance(one, Hold) and one.reason is Reason.DRIFTED]
    assert bool(drifted) != is_due


def test_a_new_service_is_adopted_and_started_in_one_look() -> None:
    made = World(now=NOW, desired=desired(service()), observed=Observed(at=NOW, complete=True), memory=Memory())
    planned = plan(made)
    assert [event.kind for event in planned.events] == ["SpecChanged", "RolloutStarted"]
    assert planned.memory.services["chat"].candidate == "v1"


def test_planning_is_a_function_of_the_world() -> None:
    assert plan(pausing()) == plan(pausing())


def test_what_may_not_start_yet_stops_nothing_else() -> None:
    """One service moves already. The other's broken revision must lose its requests all the same."""
    cells = cell("v1", ready=2, weight=5000), cell("v2", ready=0, weight=5000)
    held = world(service(version="v3", sizes=2), *cells, stable="v1", outgoing={"v2": OutgoingCause.SUPERSEDED})
    moves = pausing().memory.services["chat"]
    other = replace(moves, name="busy", wanted=replace(moves.wanted, name="busy", route="/busy"))
    made = replace(
        held,
        desired=desired(service(version="v3", sizes=2), other.wanted, settings=ClusterSettings(max_services_moving=1)),
        memory=Memory(services={**held.memory.services, "busy": other}),
    )
    decisions = plan(made).decisions["chat"]
    assert not any(isinstance(decision, StartRollout) for decision in decisions)
    assert isinstance(decisions[0], Hold)
    assert decisions[0].reason is Reason.SERVICES_MOVING
    (weights,) = (decision for decision in decisions if isinstance(decision, SetWeights))
    assert weights.weights == {"chat.v1.-.-.0": FULL, "chat.v2.-.-.0": 0}


def test_orders_are_carried_out_alone() -> None:
    order = PauseRollout(service="chat", by="ada", why="")
    planned = plan(pausing(), chat=(order,))
    assert planned.decisions["chat"] == (order,)
    assert planned.memory.services["chat"].pause is not None


@pytest.mark.parametrize(
    ("made", "sync", "health", "phase", "reason"),
    [
        (steady(), Sync.SYNCED, Health.HEALTHY, Phase.STEADY, Reason.STEADY),
        (pausing(), Sync.OUT_OF_SYNC, Health.PAUSED, Phase.PAUSED, Reason.PAUSING),
        (
            steady("v2", quarantine=(QUARANTINED,)),
            Sync.OUT_OF_SYNC,
            Health.HEALTHY,
            Phase.BLOCKED,
            Reason.QUARANTINED,
        ),
        (
            world(service(), cell("v1", ready=0, weight=FULL), stable="v1"),
            Sync.OUT_OF_SYNC,
            Health.DEGRADED,
            Phase.STEADY,
            Reason.OVERCOMMITTED,
        ),
        (
            world(service(sizes=4), cell("v1", ready=3, starting=1, weight=FULL), stable="v1"),
            Sync.OUT_OF_SYNC,
            Health.PROGRESSING,
            Phase.STEADY,
            Reason.NOT_READY,
        ),
        (
            world(service(sizes=4), cell("v1", ready=3, target=4, weight=FULL), stable="v1"),
            Sync.OUT_OF_SYNC,
            Health.DEGRADED,
            Phase.STEADY,
            Reason.NOT_READY,
        ),
        (
            world(service(suspend=True), cell("v1", ready=3, weight=FULL), stable="v1"),
            Sync.SYNCED,
            Health.SUSPENDED,
            Phase.SUSPENDED,
            Reason.SUSPENDED,
        ),
        (
            world(service(), cell("v1", ready=3, weight=FULL), stable="v1", complete=False),
            Sync.UNKNOWN,
            Health.UNKNOWN,
            Phase.BLOCKED,
            Reason.RAY_UNREACHABLE,
        ),
        (
            world(service(), cell("v1", starting=3), candidate="v1"),
            Sync.OUT_OF_SYNC,
            Health.PROGRESSING,
            Phase.DEPLOYING,
            Reason.BUILDING,
        ),
    ],
    ids=["steady", "pausing", "quarantined", "dead", "growing", "short", "suspended", "blind", "first"],
)
def test_the_status_sums_it_up(made: World, sync: Sync, health: Health, phase: Phase, reason: Reason) -> None:
    status = told(made)
    assert (status.sync, status.health, status.phase, status.reason) == (sync, health, phase, reason)


def through_proxies(up: frozenset[str]) -> World:
    """Return a settled world behind Serve's proxies, of which the gateway reaches these."""
    made = steady()
    gateway = made.observed.gateway
    assert gateway is not None
    lanes = tuple(replace(lane, up=up) for lane in gateway.lanes)
    return replace(made, observed=replace(made.observed, gateway=replace(gateway, is_direct=False, lanes=lanes)))


def test_behind_serve_s_proxies_a_service_is_as_healthy_as_the_way_to_them() -> None:
    reached = told(through_proxies(frozenset({"SERVE_PROXY_ACTOR-1"})))
    assert (reached.health, reached.reason, reached.replicas.ready) == (Health.HEALTHY, Reason.STEADY, 3)

    lost = told(through_proxies(frozenset()))
    assert (lost.health, lost.reason, lost.replicas.ready) == (Health.DEGRADED, Reason.OVERCOMMITTED, 0)
    assert "does the gateway reach their port?" in lost.message


def test_a_pause_says_until_when() -> None:
    status = told(pausing())
    assert status.step is not None
    assert (status.step.index, status.step.count, status.step.text) == (1, 2, "pause 60s")
    assert status.step.until == NOW + seconds(40)


def test_weights_and_replicas_are_summed_over_cells() -> None:
    status = told(pausing())
    assert status.weights == {"v1": 50.0, "v2": 50.0}
    assert (status.replicas.target, status.replicas.live, status.replicas.ready) == (2, 2, 2)


def test_an_effect_that_failed_comes_first() -> None:
    about = replace(CALM, problems={"chat": (Reason.PACKAGE_FAILED, "too large")})
    assert (told(steady(), about).reason, told(steady(), about).message) == (Reason.PACKAGE_FAILED, "too large")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    planned = plan(steady())
    first = report(planned, planned.memory, CALM, None)
    later = plan(replace(steady(), now=NOW + SETTLED))
    second = report(later, later.memory, CALM, first)
    assert {condition.last_transition_time for condition in second.services[0].conditions} == {NOW}
    broken = plan(replace(world(service(), cell("v1", weight=FULL), stable="v1"), now=NOW + SETTLED))
    third = report(broken, broken.memory, CALM, first)
    times = {condition.type: condition.last_transition_time for condition in third.services[0].conditions}
    assert times["Ready"] == NOW + SETTLED
    assert times["Suspended"] == NOW


def test_a_broken_file_is_shown_on_its_service() -> None:
    error = SpecError(path="chat.yaml", line=3, column=1, message="no")
    made = replace(steady(), desired=desired(errors=(error,)))
    status = told(made)
    conditions = {condition.type: condition.status for condition in status.conditions}
    assert conditions["SpecValid"] == "False"
    assert status.reason is Reason.INVALID_SPEC
