"""Commands of people: carried out as decisions, or refused with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from policies.operator import Refusal, obey
from policies.view import ServiceView
from specs.commands import Command, Verb
from specs.decisions import (
    EnterStep,
    PauseRollout,
    PinRevision,
    Quarantine,
    Release,
    ResumeRollout,
    RollBack,
)
from specs.memory import OperatorPause, OutgoingCause, Pin, Quarantined
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import NOW, cell, look, service, steps

QUARANTINED = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no", at=NOW)
PAUSED = OperatorPause(by="ada", why="", at=NOW)


def steady(version: str = "v1", **memory: Any) -> ServiceView:
    return look(service(version=version), cell("v1", ready=3, weight=FULL), stable="v1", **memory)


def rolling(step: int = 0, **memory: Any) -> ServiceView:
    cells = cell("v1", ready=3, weight=FULL), cell("v2", ready=1)
    spec = service(version="v2", steps=steps(10, "", 50))
    return look(spec, *cells, stable="v1", candidate="v2", step=step, **memory)


def tell(view: ServiceView, verb: Verb, **options: Any) -> Any:
    return obey(view, Command(verb=verb, service="chat", by="ada", **options))


@pytest.mark.parametrize(
    ("verb", "view", "says"),
    [
        (Verb.PROMOTE, steady(), "no rollout"),
        (Verb.PROMOTE, rolling(0), "--full"),
        (Verb.PROMOTE, rolling(3), "100% already"),
        (Verb.PAUSE, steady(), "suspend"),
        (Verb.PAUSE, rolling(pause=PAUSED), "ada already"),
        (Verb.RESUME, rolling(), "not paused"),
        (Verb.ABORT, steady(), "rollback"),
        (Verb.RETRY, steady(), "not quarantined"),
        (Verb.ROLLBACK, steady(), "no earlier good revision"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(verb: Verb, view: ServiceView, says: str) -> None:
    answer = tell(view, verb)
    assert isinstance(answer, Refusal)
    assert says in answer.message


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
    cells = cell("v2", ready=3, weight=FULL), cell("v1", ready=1)
    warm = {"v1": OutgoingCause.REPLACED}
    view = look(service(version="v2"), *cells, stable="v2", outgoing=warm, good=("v1", "v2"))
    quarantine, pin = tell(view, Verb.ROLLBACK)
    assert isinstance(quarantine, Quarantine)
    assert quarantine.revision == "v2"
    assert pin == PinRevision(service="chat", pin=Pin(revision="v1", against="v2"), by="ada")
    assert isinstance(tell(view, Verb.ROLLBACK, to="v9"), Refusal)
