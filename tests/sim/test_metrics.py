"""Metrics in whole stories: failures roll back, silence waits; and each rule is seen to bite when it is broken."""

from __future__ import annotations

from typing import Any

import pytest

import policies.metrics
import policies.rollout
import policies.service
import reconciler.planning.perceive
from reconciler.errors import Retry
from specs.desired import DesiredService
from tests.builders import metric, service, steps
from tests.sim.world import Simulation


def spec(version: str, *metrics: Any, **options: Any) -> DesiredService:
    made = {"steps": steps(20, "60", 60, "20"), "scale_down": 5, "max_request": 10, **options}
    return service(version=version, sizes=2, metrics=metrics or (metric(),), **made)


async def begun(*metrics: Any, value: float | None = 0.0, problem: str = "", **options: Any) -> Simulation:
    """Return a simulation in which v1 serves, v2 was pushed, and the server answers like this."""
    sim = Simulation()
    await sim.start()
    sim.push(spec("v1", *metrics, **options))
    await sim.settle()
    assert sim.metrics.queries == []
    sim.metrics.value, sim.metrics.problem = value, Retry(problem) if problem else None
    sim.push(spec("v2", *metrics, **options))
    return sim


async def good_values() -> None:
    sim = await begun(value=0.01)
    await sim.settle()
    assert sim.weights() == {"v2": 100}
    assert set(sim.metrics.queries) == {'rate{service="chat",revision="v2"}'}
    assert 10 <= len(sim.metrics.queries) <= 30  # Each 5 s while the candidate went through its steps.


async def bad_values() -> None:
    sim = await begun(metric(failures=2), value=0.2)
    await sim.settle(within=200)
    assert sim.weights() == {"v1": 100}
    assert len(sim.metrics.queries) == 3
    (entry,) = sim.memory().quarantine
    assert entry.reason.value == "AnalysisFailed"
    wanted = "metric errors: 3 of 3 values are not at most 0.05 (the last is 0.2, the worst 0.2; failureLimit 2)"
    assert entry.message == wanted


async def no_answers() -> None:
    sim = await begun(problem="prometheus does not answer")
    await sim.until(lambda: sim.status().reason.value == "MetricsUnreachable", within=60)
    await sim.run(200)
    assert sim.weights() == {"v1": 80, "v2": 20}
    assert not sim.memory().quarantine
    assert "errors in a row (consecutiveErrorLimit 2): prometheus does not answer" in sim.status().message
    sim.metrics.problem = None
    await sim.settle()
    assert sim.weights() == {"v2": 100}


async def some_answers() -> None:
    """Errors that are not in a row pause nothing, and failures among them are still counted one by one."""
    sim = await begun(metric(failures=3, errors=1), value=0.2)
    for _ in range(3):
        before = len(sim.metrics.queries)
        await sim.until(lambda before=before: len(sim.metrics.queries) > before)
        sim.metrics.problem = Retry("once")
        before = len(sim.metrics.queries)
        await sim.until(lambda before=before: len(sim.metrics.queries) > before)
        sim.metrics.problem = None
        sim.kill()
    assert sim.memory().candidate == "v2"
    await sim.settle(within=300)
    (entry,) = sim.memory().quarantine
    assert entry.message.startswith("metric errors: 4 of 4 values")


STORIES = {"good": good_values, "bad": bad_values, "none": no_answers, "some": some_answers}


@pytest.mark.parametrize("name", STORIES)
async def test_goes_as_told(name: str) -> None:
    await STORIES[name]()


MUTATIONS: dict[str, tuple[Any, str, Any, str]] = {
    "values out of bounds are forgiven": (policies.service, "failed_metrics", lambda view: (), "bad"),
    "errors count as failures": (
        policies.metrics,
        "counted",
        lambda tally, metric, reading: policies.metrics.replace(
            tally, asked_at=reading.asked_at, failed=tally.failed + 1, value=1.0, worst=1.0
        ),
        "none",
    ),
    "nobody waits for a server that does not answer": (policies.rollout, "silent_metric", lambda view: "", "none"),
    "a restart forgets what was counted": (
        reconciler.planning.perceive,
        "next_tallies",
        lambda view, rollout: tuple(
            policies.metrics.replace(tally, failed=min(tally.failed, 1))
            for tally in policies.metrics.next_tallies(view, rollout)
        ),
        "bad",
    ),
    "measured at every look": (policies.metrics, "is_due", lambda tally, metric, view: True, "good"),
}


@pytest.mark.parametrize("name", MUTATIONS, ids=lambda name: name.replace(" ", "-"))
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, rule, broken, story = MUTATIONS[name]
    monkeypatch.setattr(owner, rule, broken)
    with pytest.raises(AssertionError):
        await STORIES[story]()


async def test_no_number_is_no_failure_and_is_said_at_an_analysis_step() -> None:
    sim = await begun(value=None, steps=steps(50, "analysis 10"))
    await sim.until(lambda: sim.memory().rollout is not None and sim.memory().rollout.step == 1)
    await sim.run(60)
    assert sim.weights() == {"v1": 50, "v2": 50}
    status = sim.status()
    assert status.reason.value in ("AnalysisInconclusive", "Analysing")
    tally = sim.memory().rollout.tallies[0]
    assert tally.inconclusive > 5
    assert (tally.passed, tally.failed, tally.message) == (0, 0, "the query gives no series")


async def test_promote_goes_one_step_past_a_silent_server_and_full_all_the_way() -> None:
    sim = await begun(problem="down")
    await sim.until(lambda: sim.status().reason.value == "MetricsUnreachable", within=60)
    assert await sim.order("promote") == ""
    await sim.until(lambda: sim.memory().rollout.step == 2)
    await sim.run(60)
    assert sim.memory().rollout.step == 2
    assert await sim.order("promote", full=True) == ""
    await sim.settle()
    assert sim.weights() == {"v2": 100}


async def test_a_server_that_hangs_delays_no_turn_and_is_asked_one_thing_at_a_time() -> None:
    sim = await begun(value=0.0)
    import asyncio

    asked = 0

    async def hang(query: str) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.get_running_loop().create_future()

    sim.metrics.query = hang  # type: ignore[method-assign]
    await sim.until(lambda: sim.memory().stable == "v2", within=400)
    assert asked == 1
    sim.kill()
    await asyncio.sleep(0)
