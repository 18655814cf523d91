"""What only a reader of a report needs."""

from __future__ import annotations

from dataclasses import replace

from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import make_plan
from reconciler.planning.report import Circumstances, report
from reconciler.planning.report_bounds import in_full
from specs.analysis import Measure
from specs.evidence import Evidence, LatencyCounts, Window
from specs.memory import Comparison
from specs.status import ClusterStatus
from specs.world import World
from tests.builders import GATEWAY_URL, NOW, cell, seconds, service, steps, world

V1, V2 = "chat.v1.-.-.0", "chat.v2.-.-.0"
SEEN = Evidence(requests=2000, errors=40, latency=LatencyCounts.of({150: 1000, 160: 1000}))


def compared() -> World:
    spec = service(version="v2", sizes=2, steps=steps(50, "analysis 60"))
    cells = cell("v1", ready=1, weight=5000), cell("v2", ready=1, weight=5000)
    past = (Window(candidate=SEEN, stable=SEEN),)
    comparison = Comparison(
        candidate="v2", stable="v1", since=NOW - seconds(10), weights={V1: 5000, V2: 5000}, start={}, past=past
    )
    rollout = {"reached_at": NOW - seconds(20)}
    return world(spec, *cells, stable="v1", candidate="v2", step=1, rollout=rollout, comparison=comparison)


def told(made: World) -> tuple[ClusterStatus, World]:
    plan = make_plan(made, Surroundings(gateway_url=GATEWAY_URL), None)
    about = Circumstances(cluster="test", is_leader=True, problems={})
    return report(plan, plan.memory, about, None), replace(plan.world, memory=plan.memory)


def bounds(status: ClusterStatus) -> dict[Measure, tuple[float | None, float | None]]:
    analysis = status.services[0].analysis
    assert analysis is not None
    return {verdict.measure: (verdict.low, verdict.high) for verdict in analysis.verdicts}


def test_a_turn_does_not_reckon_what_only_a_reader_needs() -> None:
    status, _ = told(compared())
    assert bounds(status) == {Measure.SUCCESS_RATE: (None, None), Measure.LATENCY: (None, None)}


def test_a_reader_is_told_between_which_bounds_each_effect_surely_lies() -> None:
    status, seen = told(compared())
    for low, high in bounds(in_full(status, seen)).values():
        assert low is not None
        assert high is not None
        assert low < 1 < high


def test_nothing_else_of_the_status_changes_and_other_services_stay() -> None:
    status, seen = told(compared())
    assert in_full(status, seen, "elsewhere") == status
    full = in_full(status, seen, "chat")
    assert replace(full.services[0], analysis=None) == replace(status.services[0], analysis=None)
    assert replace(full, services=()) == replace(status, services=())
