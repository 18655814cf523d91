"""What follows from a judgement: a rollback, a freeze, the next step, or waiting with a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.explain import explain
from policies.rollout import advance
from policies.service import decide
from policies.verdicts import failed_analysis, judgement
from policies.view import ServiceView, view_of
from specs.analysis import Outcome
from specs.decisions import EnterStep, LatchFailure, ReachStep, RollBack
from specs.evidence import Evidence, LatencyCounts, Window
from specs.memory import Comparison, Failure
from specs.observed import TrafficSeen
from specs.reasons import Reason
from specs.routes import Sticky, StickyKind
from tests.builders import NOW, cell, look, seconds, service, steps

V1, V2 = "chat.v1.-.-.0", "chat.v2.-.-.0"
GOOD = Evidence(requests=2000, latency=LatencyCounts.of({150: 1000, 160: 1000}))
BAD = Evidence(requests=2000, errors=400, latency=LatencyCounts.of({150: 1000, 160: 1000}))
FEW = Evidence(requests=20, errors=20, latency=LatencyCounts.of({150: 20}))
NONE = Evidence()


def at_analysis(candidate: Evidence, waited: float | None = 30, *, failure: bool = False, **spec: Any) -> ServiceView:
    """Return a look at a step `analysis 60` that was reached `waited` seconds ago, both at 50%."""
    wanted = service(version="v2", sizes=2, steps=steps(50, "analysis 60"), **spec)
    broken = Failure(reason=Reason.ANALYSIS_FAILED, message="5 of 10", at=NOW) if failure else None
    cells = cell("v1", ready=1, weight=5000), cell("v2", ready=1, weight=5000, failure=broken)
    reached = NOW - seconds(waited) if waited is not None else None
    past = (Window(candidate=candidate, stable=GOOD if candidate.requests else NONE),)
    comparison = Comparison(
        candidate="v2", stable="v1", since=NOW - seconds(10), weights={V1: 5000, V2: 5000}, start={}, past=past
    )
    rollout = {"reached_at": reached}
    seen = look(wanted, *cells, stable="v1", candidate="v2", step=1, rollout=rollout, comparison=comparison)
    return _with_rate(seen, 100)


def _with_rate(view: ServiceView, requests: int) -> ServiceView:
    """Let the present window have this many requests on both sides, 10 seconds long."""
    gateway = view.world.observed.gateway
    assert gateway is not None
    evidence = Evidence(requests=requests)
    traffic = tuple(TrafficSeen(cell=name, evidence=evidence) for name in (V1, V2))
    observed = replace(view.world.observed, gateway=replace(gateway, traffic=traffic))
    return view_of(replace(view.world, observed=observed), "chat")


def test_a_surely_worse_candidate_is_latched_and_rolled_back_with_the_numbers() -> None:
    latched, back = failed_analysis(at_analysis(BAD))
    assert isinstance(latched, LatchFailure)
    assert latched.failure.reason is Reason.ANALYSIS_FAILED
    assert isinstance(back, RollBack)
    assert back.reason is Reason.ANALYSIS_FAILED
    assert "20% of 2,000 requests failed" in back.message


def test_with_auto_rollback_off_it_is_latched_once_and_stands_still() -> None:
    (latched,) = failed_analysis(at_analysis(BAD, auto_rollback=False))
    assert isinstance(latched, LatchFailure)
    frozen = at_analysis(BAD, auto_rollback=False, failure=True)
    assert failed_analysis(frozen) == ()
    decided = decide(frozen.world, "chat", lambda decision: decision)
    assert not [one for one in decided if isinstance(one, LatchFailure | RollBack | EnterStep)]
    assert explain(frozen).reason is Reason.AUTO_ROLLBACK_DISABLED


def test_an_operator_s_pause_does_not_keep_a_worse_candidate() -> None:
    view = at_analysis(BAD, waited=None)
    assert [type(decision) for decision in failed_analysis(view)] == [LatchFailure, RollBack]


@pytest.mark.parametrize("candidate", [NONE, FEW], ids=["none", "few"])
def test_too_few_requests_never_roll_back_and_hold_with_what_is_missing(candidate: Evidence) -> None:
    view = at_analysis(candidate, waited=9999)
    assert failed_analysis(view) == ()
    assert advance(view) is None
    assert explain(view).reason is Reason.ANALYSIS_INCONCLUSIVE


def test_what_is_missing_is_told_in_requests_and_in_time() -> None:
    said = explain(_with_rate(_started(at_analysis(FEW, waited=9999)), 50)).message
    assert "needs 200 to be judged" in said
    assert "s at the present rate" in said


def _started(view: ServiceView) -> ServiceView:
    comparison = view.memory.comparison
    assert comparison is not None
    begun = replace(comparison, start={V1: Evidence(), V2: Evidence()})
    memory = replace(view.world.memory, services={"chat": replace(view.memory, comparison=begun)})
    return view_of(replace(view.world, memory=memory), "chat")


def test_a_passing_one_goes_on_when_the_step_s_time_is_over() -> None:
    assert advance(at_analysis(GOOD, waited=None)) == ReachStep(service="chat")
    assert advance(at_analysis(GOOD, waited=59)) is None
    assert explain(at_analysis(GOOD, waited=59)).reason is Reason.ANALYSING
    passed = advance(at_analysis(GOOD, waited=60))
    assert isinstance(passed, EnterStep)
    assert passed.step == 2
    assert "0% of 2,000 requests failed" in passed.message


def test_on_inconclusive_promote_goes_on_when_time_is_over_and_not_before() -> None:
    quiet = {"on_inconclusive": "promote"}
    assert advance(at_analysis(NONE, waited=59, **quiet)) is None
    passed = advance(at_analysis(NONE, waited=60, **quiet))
    assert isinstance(passed, EnterStep)
    assert passed.message.startswith("onInconclusive: promote")


def test_without_an_analysis_block_only_analysis_steps_judge() -> None:
    step = at_analysis(BAD)
    assert judgement(step) is not None
    rollout = step.memory.rollout
    assert rollout is not None
    elsewhere = replace(step, memory=replace(step.memory, rollout=replace(rollout, step=0)))
    assert judgement(elsewhere) is None
    asked = replace(elsewhere, spec=at_analysis(BAD, analysis={}).spec)
    found = judgement(asked)
    assert found is not None
    assert found.outcome is Outcome.FAILING


def test_a_step_may_ask_for_more_requests() -> None:
    view = at_analysis(GOOD, waited=60)
    demanding = replace(view.spec.rollout.steps[1], min_requests=5000)  # type: ignore[type-var]
    spec = replace(view.spec, rollout=replace(view.spec.rollout, steps=(view.spec.rollout.steps[0], demanding)))
    assert advance(view) is not None
    assert advance(replace(view, spec=spec)) is None


def test_where_clients_stay_on_their_version_they_are_what_counts() -> None:
    stays = {"sticky": Sticky(kind=StickyKind.HEADER, name="x-user")}
    found = judgement(at_analysis(BAD, **stays))
    assert found is not None
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "told apart" in found.message
    assert judgement(at_analysis(BAD)) != found
