"""Analysis in random lives: never a rollback without evidence, never a bad revision that stays, never a good one lost.

Equal revisions answer equally here, latencies in turns and not by chance: the false alarms of the statistics are
measured elsewhere, so that in these stories each rollback of a good revision is somebody's mistake. Each property
is seen to bite by a rule that is broken on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

import policies.verdicts
import policies.window
import reconciler.planning.perceive
from policies.view import ServiceView
from specs.analysis import Judgement, Outcome
from specs.desired import OnInconclusive
from specs.reasons import Reason
from tests.builders import service, steps
from tests.sim.scenarios import CODE, Story, Teller, stories
from tests.sim.test_mutations import patch, sees_everything
from tests.sim.test_properties import lives
from tests.sim.world import Simulation

STEPS = (25, "analysis 10", 50, "analysis 10")
NUMBERS = re.compile(
    r"[\d.]+% of \d+ requests failed, [\d.]+% of \d+ at the stable revision: [\d.]+ times as many, "
    r"surely more than [\d.]+ and less than [\d.]+ times"
)
LONGEST = 240
"""Seconds after which a rollout that has not ended waits for something."""

ASKED = {"min_requests": 50}


def spec(version: str, code: str = "good", **changes: Any) -> Any:
    options: dict[str, Any] = {"sizes": 3, "steps": steps(*STEPS), "analysis": ASKED, "scale_down": 5, **changes}
    return service(version=version, args=CODE[code], max_request=20, **options)


async def rollout(
    code: str, *, rate: float = 20.0, accident: Callable[[Simulation], None] | None = None, at: int = 0, **changes: Any
) -> Simulation:
    """Deploy v1, push v2 with this code, let an accident happen so many seconds later, and return what came of it."""
    sim = Simulation()
    sim.signals.rate = rate
    await sim.start()
    sim.push(spec("v1", **changes))
    await sim.settle()
    sim.push(spec("v2", code, **changes))
    await sim.run(max(at, 4))  # A push is seen at the next look.
    if accident is not None:
        accident(sim)
    for _ in range(LONGEST):
        if sim.memory().candidate is None and sim.weights() in ({"v1": 100.0}, {"v2": 100.0}):
            break
        await sim.step()
    return sim


def verdict_of(sim: Simulation) -> str:
    """Return what became of v2: promoted, the reason why it was taken back, or "waiting"."""
    memory = sim.memory()
    taken_back = memory.quarantined("v2")
    if taken_back is not None:
        assert sim.weights() == {"v1": 100.0}, sim.describe()
        return taken_back.reason.value
    return "promoted" if memory.stable == "v2" else "waiting"


# -- the properties ------------------------------------------------------------------------------------------


async def check_no_evidence() -> None:
    """Without requests nothing is rolled back, however bad it would be."""
    assert verdict_of(await rollout("erring", rate=0)) == "waiting"
    assert verdict_of(await rollout("erring", rate=0, on_inconclusive="promote")) == "promoted"


async def check_bad() -> None:
    """Healthy and much worse is rolled back, by errors and by latency."""
    for code in ("erring", "dragging"):
        assert verdict_of(await rollout(code)) == "AnalysisFailed"


async def check_equal() -> None:
    """As good is promoted."""
    assert verdict_of(await rollout("good")) == "promoted"


async def check_restarts() -> None:
    """A daemon that is killed at any moment comes to the same verdict."""
    for code, expected in (("good", "promoted"), ("erring", "AnalysisFailed")):
        for at in range(8, 80, 16):
            found = verdict_of(await rollout(code, accident=Simulation.kill, at=at))
            assert found == expected, f"{code}, killed after {at} s: {found}"


def forget_all(sim: Simulation) -> None:
    """The gateway's host is lost, and all that it knew."""
    sim.gateway.forget()


def forget_counters(sim: Simulation) -> None:
    """Traffic goes on as it was, and is counted from 0."""
    sim.gateway.traffic.clear()


async def check_lost_counters() -> None:
    """Counters that the gateway loses begin a window anew: they never make a verdict."""
    for code, expected in (("good", "promoted"), ("erring", "AnalysisFailed")):
        for at in range(20, 80, 20):
            for lose in (forget_all, forget_counters):
                found = verdict_of(await rollout(code, accident=lose, at=at))
                assert found == expected, f"{code}, {lose.__name__} after {at} s: {found}"


async def check_blindness() -> None:
    """A gateway that cannot be asked holds the step, and its silence is no evidence."""
    sim = await rollout("good", accident=Simulation.gateway_fails, at=45)
    assert verdict_of(sim) == "waiting"
    sim.gateway_mends()
    await sim.run(300)
    assert verdict_of(sim) == "promoted"


CHECKS = (check_no_evidence, check_bad, check_equal, check_restarts, check_lost_counters, check_blindness)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_holds(check: Callable[[], Any]) -> None:
    await check()


@pytest.mark.parametrize("goes_on", [OnInconclusive.HOLD, OnInconclusive.PROMOTE])
async def test_who_cannot_have_both_revisions_is_told_that_nothing_can_be_compared(goes_on: OnInconclusive) -> None:
    sim = await rollout("good", sizes=1, surge=0, unavailable=1, on_inconclusive=goes_on)
    for _ in range(2) if goes_on is OnInconclusive.HOLD else ():
        assert sim.weights() == {"v2": 100.0}
        status = sim.status()
        assert status.reason is Reason.ANALYSIS_INCONCLUSIVE
        assert "v2 has all requests, v1 none to compare with; promote goes on" in status.message
        await sim.order("promote", "chat")
        await sim.run(30)
    await sim.settle()
    assert sim.memory().stable == "v2"


async def test_a_verdict_s_numbers_stand_in_status_events_and_history() -> None:
    """Effect, bounds and samples of both sides, after the rollout, too, when there is nothing to compare any more."""
    sim = Simulation()
    sim.signals.rate = 60.0
    await sim.start()
    for version, share in (("v1", 0.05), ("v2", 0.4)):
        sim.push(service(version=version, args={"error_rate": share}, sizes=3, steps=steps(*STEPS), analysis=ASKED))
        await sim.settle()
    (event,) = [event.message for event in sim.events() if event.kind == "RolledBack"]
    (ended,) = [entry.message for entry in sim.store._history if entry.outcome == "rolled-back"]
    (condition,) = [found.message for found in sim.status().conditions if found.type == "Quarantined"]
    for text in (event, ended, condition):
        assert NUMBERS.search(text), text


# -- each of them bites --------------------------------------------------------------------------------------


def judged(outcome: Outcome) -> Callable[..., Judgement]:
    return lambda windows, settings: Judgement(outcome=outcome, message="made up")


def forgets(view: ServiceView) -> None:
    """Whatever was compared is forgotten at each look, as by a daemon without memory."""


Change = Callable[[pytest.MonkeyPatch], None]


def never_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether counters have fallen, neither before they are compared nor then."""
    monkeypatch.setattr(policies.window, "_have_grown", lambda now, then: now.keys() == then.keys())
    monkeypatch.setattr(policies.window, "_since", lambda now, start: now - start)


MUTATIONS: tuple[tuple[str, Change, Callable[[], Any]], ...] = (
    ("no evidence is bad evidence", patch(policies.verdicts, "_judged", judged(Outcome.FAILING)), check_no_evidence),
    ("nothing is ever bad", patch(policies.verdicts, "_judged", judged(Outcome.PASSING)), check_bad),
    ("nothing is ever good enough", patch(policies.verdicts, "_judged", judged(Outcome.INCONCLUSIVE)), check_equal),
    ("nothing is remembered", patch(reconciler.planning.perceive, "next_comparison", forgets), check_restarts),
    ("counters never fall", never_fall, check_lost_counters),
    ("an unseen gateway is taken for a quiet one", sees_everything, check_blindness),
)


@pytest.mark.parametrize(
    ("name", "change", "check"), MUTATIONS, ids=[name.replace(" ", "-") for name, _, _ in MUTATIONS]
)
async def test_a_broken_rule_is_found(
    name: str, change: Change, check: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        await check()


# -- random lives --------------------------------------------------------------------------------------------


def asking(story: Story) -> Story:
    """Return the story with an analysis at each step of each service.

    With surge: who cannot have both revisions at once has nothing to compare, and waits for a person.
    """
    asked = (
        replace(shape, asks=True, surge=shape.surge or 1, steps=(25, "analysis 5", 50, "analysis 5"))
        for shape in story.shapes
    )
    return replace(story, shapes=tuple(asked))


@lives
@given(story=stories("push", "push", "revert", "gateway", "forget", "kill", "crash", services=2).map(asking))
async def test_a_good_revision_is_never_taken_back_by_its_requests(story: Story) -> None:
    teller = Teller(story)
    await teller.tell()
    for event in teller.sim.watch.events:
        if event.kind == "RolledBack" and Reason.ANALYSIS_FAILED in event.message:
            assert not teller.shape(event.service).is_good(event.revision), teller.sim.describe()
