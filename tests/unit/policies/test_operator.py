"""Commands of people: carried out as decisions, or refused with what to do instead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from policies.operator import Refusal, obey
from policies.view import ServiceView
from specs.commands import Command, Verb
from specs.decisions import (
    EnterStep,
    Ordered,
    PauseRollout,
    PinRevision,
    Release,
    ResumeRollout,
    RollBack,
)
from specs.memory import Baking, Failure, OperatorPause, OutgoingCause, Pin, Quarantined
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import NOW, cell, look, revision, service, steps

QUARANTINED = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no", at=NOW)
PAUSED = OperatorPause(by="ada", why="", at=NOW)


def steady(version: str = "v1", **memory: Any) -> ServiceView:
    return look(service(version=version), cell("v1", ready=3, weight=FULL), stable="v1", **memory)


def rolling(step: int = 0, **memory: Any) -> ServiceView:
    cells = cell("v1", ready=3, weight=FULL), cell("v2", ready=1)
    spec = service(version="v2", steps=steps(10, "", 50))
    return look(spec, *cells, stable="v1", candidate="v2", step=step, **memory)


def tell(view: ServiceView, verb: Verb, **options: Any) -> Any:
    """Return what is decided beside the record of the command itself, or the refusal."""
    command = Command(verb=verb, service="chat", by="ada", **options)
    answer = obey(view, command)
    if isinstance(answer, Refusal):
        return answer
    first, *rest = answer
    assert first == Ordered(service="chat", command=command)
    return tuple(rest)


FAILED = Failure(reason=Reason.CRASH_LOOP, message="died", at=NOW)
TWO = cell("v1", ready=3, weight=FULL), cell("v2", ready=1)
BACK = Pin(revision="v1", against="v2")
LEFT = Quarantined(revision="v2", reason=Reason.ROLLED_BACK_BY_OPERATOR, message="slow", at=NOW)
BAD_OLD = Quarantined(revision="v1", reason=Reason.BUILD_FAILED, message="gone", at=NOW)


def on_v2(*cells: Any, **memory: Any) -> ServiceView:
    """v2 is stable and what Git wants; v1 was good before it."""
    options = {"good": ("v1", "v2"), "stable": "v2", "outgoing": {"v1": OutgoingCause.REPLACED}, **memory}
    return look(
        service(version="v2", bake=7200),
        *(cells or (cell("v2", ready=3, weight=FULL), cell("v1", ready=1))),
        **options,
    )


STATES: dict[str, ServiceView] = {
    "steady": steady(),
    "first": look(service(version="v1"), cell("v1", ready=1), candidate="v1"),
    "moving": rolling(0, good=("v1",)),
    "pausing": rolling(1, good=("v1",)),
    "at the end": rolling(3, good=("v1",)),
    "paused": rolling(1, good=("v1",), pause=PAUSED),
    "failed": look(
        service(version="v2", steps=steps(10, "", 50), auto_rollback=False),
        cell("v1", ready=3, weight=FULL),
        cell("v2", ready=1, failure=FAILED),
        stable="v1",
        candidate="v2",
        good=("v1",),
    ),
    "on v2": on_v2(),
    "baking": on_v2(baking=Baking(revision="v2", back_to="v1", since=NOW - timedelta(hours=1))),
    "quarantined": steady("v2", quarantine=(QUARANTINED,), good=("v1",)),
    "on the way back": on_v2(candidate="v1", outgoing={}, pin=BACK, good=("v1",), quarantine=(LEFT,)),
    "way back failed": on_v2(outgoing={}, pin=BACK, good=(), quarantine=(LEFT, BAD_OLD)),
    "suspended": look(service(version="v2", suspend=True), *TWO, stable="v1", candidate="v2", good=("v1",)),
    "removed": steady(is_removed=True),
}
TABLE: dict[str, tuple[str, str, str, str, str, str, str]] = {
    # promote, promote --full, pause, resume, abort, retry, rollback: the decisions, or what the refusal says
    "steady": (
        *("no rollout", "no rollout", "suspend: true", "not paused", "nothing is changed", "not quarantined"),
        "no earlier good revision",
    ),
    "first": (
        *("100% already", "100% already", "PauseRollout", "not paused", "RollBack", "not quarantined"),
        "no revision was good",
    ),
    "moving": (
        *("still moving to 10%", "EnterStep", "PauseRollout", "not paused", "RollBack", "not quarantined"),
        "RollBack",
    ),
    "pausing": ("EnterStep", "EnterStep", "PauseRollout", "not paused", "RollBack", "not quarantined", "RollBack"),
    "at the end": (
        *("100% already", "100% already", "PauseRollout", "not paused", "RollBack", "not quarantined"),
        "RollBack",
    ),
    "paused": (
        *("resume it first", "resume it first", "ada already", "ResumeRollout", "RollBack", "not quarantined"),
        "RollBack",
    ),
    "failed": (*("CrashLoop", "CrashLoop", "PauseRollout", "not paused", "RollBack", "not quarantined", "RollBack"),),
    "on v2": (
        *("no rollout", "no rollout", "suspend: true", "not paused", "nothing is changed", "not quarantined"),
        "FallBack",
    ),
    "baking": ("EndBake", "EndBake", "suspend: true", "not paused", "FallBack", "not quarantined", "FallBack"),
    "quarantined": (
        *("no rollout", "no rollout", "suspend: true", "not paused", "nothing is changed", "Release"),
        "no earlier good revision",
    ),
    "on the way back": (
        *("still moving to 50%", "EnterStep", "PauseRollout", "not paused", "RollBack PinRevision Release"),
        *("Release PinRevision", "RollBack PinRevision Release"),
    ),
    "way back failed": (
        *("no rollout", "no rollout", "suspend: true", "not paused", "nothing is changed", "Release PinRevision"),
        "no earlier good revision",
    ),
    "suspended": (
        *("suspend is true", "suspend is true", "PauseRollout", "not paused", "suspend is true", "suspend is true"),
        "suspend is true",
    ),
    "removed": (*["being removed"] * 7,),
}
VERBS = (
    (Verb.PROMOTE, False),
    (Verb.PROMOTE, True),
    *((verb, False) for verb in (Verb.PAUSE, Verb.RESUME, Verb.ABORT, Verb.RETRY, Verb.ROLLBACK)),
)


@pytest.mark.parametrize("state", STATES)
def test_every_verb_in_every_state_does_what_it_says_or_says_why_not(state: str) -> None:
    assert {verb for verb, _ in VERBS} == set(Verb)
    assert TABLE.keys() == STATES.keys()
    for (verb, full), expected in zip(VERBS, TABLE[state], strict=True):
        answer = tell(STATES[state], verb, full=full)
        if isinstance(answer, Refusal):
            assert expected in answer.message, (verb, full)
        else:
            assert " ".join(type(decision).__name__ for decision in answer) == expected, (verb, full)


def test_ending_a_way_back_blames_nobody_and_leaves_no_pin() -> None:
    undo, unpin, release = tell(STATES["on the way back"], Verb.ABORT)
    assert (undo.revision, undo.quarantine) == ("v1", False)
    assert unpin == PinRevision(service="chat", pin=None, by="ada")
    assert release.revision == "v2"


def test_abort_under_watch_after_100_percent_goes_back_at_once() -> None:
    (way,) = tell(STATES["baking"], Verb.ABORT, why="slow")
    assert (way.revision, way.to.id, way.is_fast, way.reason) == ("v2", "v1", True, Reason.ROLLOUT_ABORTED)
    assert "slow" in way.message


def test_promote_ends_a_pause_and_full_skips_all_steps() -> None:
    assert tell(rolling(1), Verb.PROMOTE) == (EnterStep(service="chat", step=2, by="ada"),)
    assert tell(rolling(0), Verb.PROMOTE, full=True) == (EnterStep(service="chat", step=3, by="ada"),)


def test_pause_and_resume() -> None:
    assert tell(rolling(), Verb.PAUSE, why="lunch") == (PauseRollout(service="chat", by="ada", why="lunch"),)
    assert tell(rolling(pause=PAUSED), Verb.RESUME) == (ResumeRollout(service="chat", by="ada"),)


def test_abort_takes_the_candidate_back_and_quarantines_it() -> None:
    (rollback,) = tell(rolling(), Verb.ABORT, why="slow")
    assert isinstance(rollback, RollBack)
    assert (rollback.revision, rollback.reason, rollback.quarantine) == ("v2", Reason.ROLLOUT_ABORTED, True)
    assert "slow" in rollback.message


def test_retry_releases_the_quarantine_and_an_operators_rollback() -> None:
    assert tell(steady("v2", quarantine=(QUARANTINED,)), Verb.RETRY) == (
        Release(service="chat", revision="v2", by="ada"),
    )
    pinned = steady("v2", quarantine=(QUARANTINED,), pin=Pin(revision="v1", against="v2"))
    assert [type(decision) for decision in tell(pinned, Verb.RETRY)] == [Release, PinRevision]


def test_rollback_goes_to_an_earlier_good_revision_and_keeps_git_from_undoing_it() -> None:
    (way,) = tell(on_v2(), Verb.ROLLBACK)
    assert (way.revision, way.to.id, way.is_fast, way.by) == ("v2", "v1", True, "ada")
    refusal = tell(on_v2(), Verb.ROLLBACK, to="v9")
    assert isinstance(refusal, Refusal)
    assert "known: v1" in refusal.message
    assert isinstance(tell(on_v2(), Verb.ROLLBACK, to="v2"), Refusal)


def test_a_rollback_beyond_the_window_takes_the_steps() -> None:
    cells = (cell("v4", ready=3, weight=FULL),)
    old = revision("v1"), revision("v3"), revision("v4")
    spec = service(version="v4", window=1)
    view = look(spec, *cells, stable="v4", good=("v1", "v3", "v4"), revisions=old)
    assert tell(view, Verb.ROLLBACK)[0].is_fast
    assert not tell(view, Verb.ROLLBACK, to="v1")[0].is_fast


def test_rollback_during_a_rollout_goes_to_the_stable_revision_unless_another_is_named() -> None:
    memory = {"good": ("v0", "v1"), "revisions": (revision("v0"), revision("v1"), revision("v2"))}
    (undo,) = tell(rolling(1, **memory), Verb.ROLLBACK)
    assert (undo.revision, undo.reason, undo.quarantine) == ("v2", Reason.ROLLED_BACK_BY_OPERATOR, True)
    undo, way = tell(rolling(1, **memory), Verb.ROLLBACK, to="v0")
    assert (undo.revision, way.revision, way.to.id) == ("v2", "v2", "v0")


def test_the_record_says_who_what_and_why() -> None:
    answer = obey(rolling(1), Command(verb=Verb.PROMOTE, service="chat", by="ada", why="fine", full=True))
    assert not isinstance(answer, Refusal)
    assert isinstance(answer[0], Ordered)
    assert (answer[0].by, str(answer[0].command)) == ("ada", "promote --full by ada: fine")
