"""Gates in whole stories: what never says yes is never passed; and each rule is seen to bite when it is broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import policies.gates
import policies.rollout
import reconciler.loop
import reconciler.planning.compile
import reconciler.planning.outgoing
from specs.desired import ClusterSettings, DesiredService
from specs.effects import PostQuestion
from specs.gates import GateAt
from tests.builders import gate, service, steps
from tests.sim.fake_gates import MOODS
from tests.sim.scenarios import Story, Teller
from tests.sim.test_mutations import THREE, Change, patch, story
from tests.sim.world import Simulation

GATED = replace(THREE, gates=("beforeStep", "-beforePromotion", "-afterRollback"))
LAST = replace(THREE, gates=("beforePromotion",))

REFUSED = story((0, "gate", 1), (5, "push", 1), (90, "git", 0), shapes=(GATED,))
SILENT = story((0, "gate", 2), (5, "push", 1), (90, "git", 0), shapes=(GATED,))
REFUSED_LAST = story((5, "push", 1), (20, "gate", 1), (120, "git", 0), shapes=(LAST,))
ONE = replace(LAST, sizes={"Echo": 1}, surge=1, unavailable=0, steps=(50,), min_ready=0, gates=("beforeStep",))
EARLY = story((0, "push", 1), (8, "full", 1), (1, "push", 0), shapes=(ONE,))
"""A person goes past a gate that was not asked yet."""
DEATHS = story((5, "push", 1), (8, "crash", 7), (8, "crash", 8), (20, "crash", 9), (60, "git", 0), shapes=(GATED,))


def asks_first(*args: Any) -> Any:
    """Ask, and save nothing."""
    made = reconciler.planning.compile.compile_effects(*args)
    questions = tuple(effect for effect in made.effects if isinstance(effect, PostQuestion))
    return replace(made, effects=questions, memory=args[1]) if questions else made


MUTATIONS: dict[str, tuple[Change, Story, str]] = {
    "a gate is asked and not waited for": (
        patch(policies.rollout, "is_open", lambda view: True),
        REFUSED,
        "G1",
    ),
    "no answer is taken for a yes": (
        patch(policies.gates, "_lets_pass", lambda view, gate: policies.gates.call_of(view, gate) is not None),
        SILENT,
        "G1",
    ),
    "only steps are confirmed, not the way to 100%": (
        patch(policies.gates, "_points", lambda view, number: frozenset({GateAt.BEFORE_STEP})),
        REFUSED_LAST,
        "G1",
    ),
    "a question is asked before it is remembered": (
        patch(reconciler.loop, "compile_effects", asks_first),
        REFUSED,
        "G2",
    ),
    "a question is asked again though it was answered": (
        patch(reconciler.planning.outgoing, "is_due", lambda call, gate, now: True),
        DEATHS,
        "G2",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS, ids=lambda name: name.replace(" ", "-"))
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, told, breaks = MUTATIONS[name]
    change(monkeypatch)
    with pytest.raises(AssertionError, match=rf"^{breaks}"):
        await Teller(told).tell()


@pytest.mark.parametrize(
    "told", [REFUSED, SILENT, REFUSED_LAST, EARLY, DEATHS], ids=["refused", "silent", "last", "early", "deaths"]
)
async def test_the_same_stories_go_well_otherwise(told: Story) -> None:
    await Teller(told).tell()


def spec(version: str, *gates: Any, **options: Any) -> DesiredService:
    made = {"steps": steps(20, "5", 60), "scale_down": 5, "max_request": 10, **options}
    return service(version=version, sizes=2, gates=gates, **made)


async def begun(*gates: Any, mood: str, **options: Any) -> Simulation:
    """Return a simulation in which v1 serves and v2 was pushed, its gates in this mood."""
    sim = Simulation()
    await sim.start()
    sim.push(spec("v1", *gates))
    await sim.settle()
    sim.gates.mood = mood
    sim.push(spec("v2", *gates, **options))
    return sim


@pytest.mark.parametrize("mood", [mood for mood in MOODS if mood not in ("yes", "slow")])
async def test_a_gate_that_never_says_yes_is_never_passed_and_wedges_nothing(mood: str) -> None:
    sim = await begun(gate(), mood=mood)
    await sim.run(300)
    assert sim.weights() == {"v1": 100}
    assert not sim.memory().quarantine
    status = sim.status()
    assert status.reason.value in ("GateRefused", "GateUnanswered", "GatePending")
    assert "calendar" in status.message
    # A newer commit goes on, to its own question; a person goes past.
    sim.push(spec("v3", gate()))
    await sim.until(lambda: sim.memory().candidate == "v3" and bool(sim.memory().gates))
    assert await sim.order("promote") == ""
    await sim.until(lambda: sim.weights() == {"v1": 80, "v3": 20})
    await sim.until(lambda: sim.memory().rollout is not None and sim.memory().rollout.step == 2)
    await sim.run(60)
    assert sim.weights() == {"v1": 80, "v3": 20}
    assert await sim.order("promote", full=True) == ""
    await sim.settle()
    assert sim.weights() == {"v3": 100}


async def test_a_gate_that_says_yes_is_asked_once_per_step() -> None:
    sim = await begun(gate(), gate("told", kind="notify"), gate("last", "beforePromotion"), mood="yes")
    await sim.settle()
    assert sim.weights() == {"v2": 100}
    asked = Counter(question.gate for question in sim.gates.asked)
    assert asked == {"calendar": 2, "told": 2, "last": 1}
    assert len({question.key for question in sim.gates.asked}) == 5


async def test_a_yes_to_one_step_is_none_to_another_that_takes_its_place() -> None:
    asked_for = {"steps": steps(10, 20, 30, "600")}
    sim = await begun(gate(), mood="yes", **asked_for)
    await sim.until(lambda: sim.weights().get("v2") == 30)
    sim.gates.mood = "no"
    sim.push(spec("v2", gate(), steps=steps(10, 30, 90, "600")))
    await sim.run(120)
    assert sim.weights() == {"v1": 70, "v2": 30}
    assert sim.status().reason.value == "GateRefused"
    questions = {(question.key.rpartition(".")[0], question.body) for question in sim.gates.asked}
    assert len(questions) == len({key for key, _ in questions}), "one key, two questions"


async def test_what_was_said_yes_to_is_not_asked_again_when_later_steps_change() -> None:
    sim = await begun(gate(), mood="yes", steps=steps(10, 20, "600", 50))
    await sim.until(lambda: sim.weights().get("v2") == 20)
    asked = len(sim.gates.asked)
    sim.push(spec("v2", gate(), steps=steps(10, 20, "600", 70)))
    await sim.run(60)
    assert len(sim.gates.asked) == asked


async def test_a_yes_to_a_weight_holds_wherever_that_stands_among_other_steps() -> None:
    sim = await begun(gate(), mood="yes", steps=steps(10, 20, "600", 50))
    await sim.until(lambda: sim.weights().get("v2") == 20)
    asked = len(sim.gates.asked)
    sim.gates.mood = "no"
    sim.push(spec("v2", gate(), steps=steps(5, 10, 15, 20, "600", 50)))
    await sim.run(60)
    assert len(sim.gates.asked) == asked, "a yes to 20% was forgotten"
    assert sim.weights() == {"v1": 80, "v2": 20}


async def test_a_no_stands_for_the_interval_and_is_asked_anew_under_another_key() -> None:
    sim = await begun(gate(interval=20), mood="no")
    await sim.until(lambda: sim.status().reason.value == "GateRefused")
    assert "not on a Friday" in sim.status().message
    await sim.run(65)
    keys = [question.key for question in sim.gates.asked]
    assert len(keys) == len(set(keys)) == 4
    assert [event.kind for event in sim.events()].count("GateRefused") == 1
    sim.gates.mood = "yes"
    await sim.settle()
    assert sim.weights() == {"v2": 100}


async def test_what_gets_no_answer_is_tried_again_under_the_same_key() -> None:
    sim = await begun(gate(retries=3, interval=40), mood="broken")
    await sim.until(lambda: sim.status().reason.value == "GateUnanswered")
    assert len({question.key for question in sim.gates.asked}) == 1
    assert [question.failures for question in sim.gates.asked] == [0, 1, 2, 3]
    await sim.run(38)
    assert len(sim.gates.asked) == 4
    sim.gates.mood = "yes"
    await sim.until(lambda: sim.weights() == {"v1": 80, "v2": 20})


async def test_a_daemon_that_dies_while_it_asks_repeats_the_same_question() -> None:
    sim = await begun(gate(timeout=30), mood="silent")
    await sim.until(lambda: len(sim.gates.asked) == 1)
    sim.kill()
    await sim.run(5)
    assert [question.key for question in sim.gates.asked] == [sim.gates.asked[0].key] * 2
    sim.gates.mood = "yes"
    sim.kill()
    await sim.settle()
    assert sim.weights() == {"v2": 100}


async def test_a_notice_holds_nothing_and_is_given_up() -> None:
    sim = await begun(gate(kind="notify", retries=1), mood="broken")
    await sim.settle()
    assert sim.weights() == {"v2": 100}
    assert [event.kind for event in sim.events()].count("GateUnanswered") == 2
    assert sim.memory().gates == ()


async def test_a_rollback_is_told_with_its_reason() -> None:
    sim = await begun(gate("told", "afterRollback", kind="notify"), mood="yes", args={"fail_start": "no weights"})
    await sim.settle()
    (question,) = sim.gates.asked
    assert '"reason":"StartFailed"' in question.body
    assert '"revision":"v2"' in question.body
    sim.push(spec("v3"))
    await sim.settle()
    assert len(sim.gates.asked) == 1


async def test_a_slow_gate_delays_no_turn_and_no_other_service() -> None:
    sim = await begun(gate(timeout=200), mood="silent")
    await sim.until(lambda: len(sim.gates.asked) == 1)
    sim.push(spec("v2", gate(timeout=200)), service("other", "v1", 2))
    await sim.until(lambda: sim.weights("other") == {"v1": 100}, within=60)
    assert len(sim.gates.asked) == 1
    assert sim.weights() == {"v1": 100}


async def test_a_gate_that_says_no_keeps_no_other_service_from_moving() -> None:
    sim = await begun(gate(), mood="no")
    policy = ClusterSettings(max_services_moving=1)
    await sim.until(lambda: sim.status().reason.value == "GateRefused")
    sim.push(spec("v2", gate()), service("other", "v1", 2), settings=policy)
    await sim.until(lambda: sim.weights("other") == {"v1": 100}, within=60)
    sim.gates.mood = "yes"
    await sim.settle()
    assert sim.weights() == {"v2": 100}
