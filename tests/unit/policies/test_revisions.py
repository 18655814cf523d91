"""Which revision is to run: the newest commit's, unless it is quarantined or an operator said otherwise."""

from __future__ import annotations

from dataclasses import replace

from policies.revisions import choose
from specs.decisions import RollBack, StartRollout
from specs.memory import Failure, OutgoingCause, Pin, Quarantined
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import NOW, cell, look, service

QUARANTINED = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no", at=NOW)
FAILURE = Failure(reason=Reason.CRASH_LOOP, message="no", at=NOW)
LIVE = cell("v1", ready=3, weight=FULL)


def test_a_new_revision_starts_a_rollout() -> None:
    course = choose(look(service(version="v2"), LIVE, stable="v1"))
    assert isinstance(course, StartRollout)
    assert (course.revision.id, course.is_fast) == ("v2", False)


def test_what_runs_or_rolls_out_already_is_no_change_of_course() -> None:
    assert choose(look(service(version="v1"), LIVE, stable="v1")) is None
    assert choose(look(service(version="v2"), LIVE, cell("v2"), stable="v1", candidate="v2")) is None


def test_a_newer_commit_wins_over_the_candidate() -> None:
    course = choose(look(service(version="v3"), LIVE, cell("v2", ready=1), stable="v1", candidate="v2"))
    assert isinstance(course, StartRollout)
    assert course.revision.id == "v3"


def test_going_back_to_the_live_revision_gives_the_candidate_up_without_blame() -> None:
    course = choose(look(service(version="v1"), LIVE, cell("v2", ready=1), stable="v1", candidate="v2"))
    assert isinstance(course, RollBack)
    assert (course.revision, course.quarantine, course.cause) == ("v2", False, OutgoingCause.SUPERSEDED)


def test_going_back_to_a_warm_revision_skips_the_steps() -> None:
    warm = {"v1": OutgoingCause.REPLACED}
    cells = cell("v2", ready=3, weight=FULL), cell("v1", ready=1)
    course = choose(look(service(version="v1"), *cells, stable="v2", outgoing=warm, good=("v1", "v2")))
    assert isinstance(course, StartRollout)
    assert course.is_fast


def test_what_was_given_up_on_its_way_is_no_short_way_back() -> None:
    for cause in (OutgoingCause.SUPERSEDED, OutgoingCause.ROLLED_BACK):
        cells = cell("v1", ready=3, weight=FULL), cell("v2", ready=1)
        course = choose(look(service(version="v2"), *cells, stable="v1", outgoing={"v2": cause}))
        assert isinstance(course, StartRollout)
        assert not course.is_fast


def test_a_quarantined_revision_is_not_tried_again() -> None:
    assert choose(look(service(version="v2"), LIVE, stable="v1", quarantine=(QUARANTINED,))) is None


def test_a_retry_waits_until_the_failed_cell_has_given_its_requests_back() -> None:
    out = {"v2": OutgoingCause.ROLLED_BACK}
    routed = cell("v1", ready=3, weight=9000), cell("v2", ready=1, weight=1000, failure=FAILURE)
    assert choose(look(service(version="v2"), *routed, stable="v1", outgoing=out)) is None
    idle = LIVE, cell("v2", ready=1, failure=FAILURE)
    assert isinstance(choose(look(service(version="v2"), *idle, stable="v1", outgoing=out)), StartRollout)


def test_an_operators_rollback_is_wanted_until_git_wants_something_else() -> None:
    pin = Pin(revision="v1", against="v2")
    cells = cell("v2", ready=3, weight=FULL), cell("v1")
    warm = {"v1": OutgoingCause.REPLACED}
    pinned = look(service(version="v2"), *cells, stable="v2", pin=pin, outgoing=warm, good=("v1", "v2"))
    course = choose(pinned)
    assert isinstance(course, StartRollout)
    assert (course.revision.id, course.is_fast) == ("v1", True)
    newer = look(service(version="v3"), *cells, stable="v2", pin=pin)
    course = choose(newer)
    assert isinstance(course, StartRollout)
    assert course.revision.id == "v3"


def test_a_retired_cell_is_not_warm() -> None:
    memory, seen, lane = cell("v1", ready=1)
    cells = cell("v2", ready=3, weight=FULL), (replace(memory, is_retired=True), seen, lane)
    warm = {"v1": OutgoingCause.REPLACED}
    course = choose(look(service(version="v1", window=0), *cells, stable="v2", outgoing=warm, good=("v1", "v2")))
    assert isinstance(course, StartRollout)
    assert not course.is_fast


def test_the_last_good_revisions_skip_the_steps_and_older_ones_do_not() -> None:
    good = ("v1", "v2", "v3", "v4")
    live = cell("v4", ready=3, weight=FULL)
    for window, version, is_fast in [(2, "v3", True), (2, "v2", True), (2, "v1", False), (0, "v3", False)]:
        course = choose(look(service(version=version, window=window), live, stable="v4", good=good))
        assert isinstance(course, StartRollout)
        assert course.is_fast is is_fast, (window, version)


def test_what_was_taken_back_after_it_was_good_takes_the_steps_when_it_is_released() -> None:
    warm = {"v2": OutgoingCause.REPLACED}
    cells = cell("v1", ready=3, weight=FULL), cell("v2", ready=1)
    course = choose(look(service(version="v2"), *cells, stable="v1", outgoing=warm, good=("v1",)))
    assert isinstance(course, StartRollout)
    assert not course.is_fast
