"""What decisions change in Memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import get_args

import pytest

from reconciler.planning.moment import Moment, Surroundings
from reconciler.planning.remember import _CHANGES, REVISIONS_KEPT, new_service, remember
from specs.cells import CellKey
from specs.decisions import (
    AdoptSpec,
    Decision,
    Drain,
    ForgetService,
    GiveWay,
    Hold,
    Promote,
    Retire,
    RollBack,
    SetCapacity,
    SetWeights,
    StartRevision,
    StartRollout,
)
from specs.memory import Failure, OutgoingCause, Pin, Quarantined, ServiceMemory
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import GATEWAY_URL, NOW, SETTLED, cell, revision, service, world

MOMENT = Moment(now=NOW, surroundings=Surroundings(gateway_url=GATEWAY_URL))
QUARANTINED = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no", at=NOW)
FAILURE = Failure(reason=Reason.CRASH_LOOP, message="no", at=NOW)
KEY = CellKey(service="chat", revision="v1")


def memory(*cells: object, **fields: object) -> ServiceMemory:
    made = world(service(), *cells, **fields)  # type: ignore[arg-type]
    return made.memory.services["chat"]


def test_every_decision_changes_memory_or_is_known_not_to() -> None:
    without = {Hold, ForgetService}
    assert set(get_args(Decision)) == set(_CHANGES) | without
    assert not set(_CHANGES) & without


def test_another_wanted_revision_ends_quarantines_and_pins() -> None:
    before = memory(quarantine=(QUARANTINED,), pin=Pin(revision="v0", against="v1"))
    same = remember(before, AdoptSpec(service="chat", wanted=service(suspend=True)), MOMENT)
    assert same.quarantine
    assert same.pin
    newer = remember(before, AdoptSpec(service="chat", wanted=service(version="v3")), MOMENT)
    assert newer.quarantine == ()
    assert newer.pin is None


def test_a_new_rollout_sends_the_candidate_out() -> None:
    before = memory(cell("v1", ready=3, weight=FULL), cell("v2"), stable="v1", candidate="v2")
    after = remember(before, StartRollout(service="chat", revision=revision("v3")), MOMENT)
    assert (after.candidate, [out.revision for out in after.outgoing]) == ("v3", ["v2"])
    assert after.rollout is not None
    assert after.rollout.started_at == NOW


def test_a_rollout_of_an_outgoing_revision_uses_its_cell_again_unless_it_failed() -> None:
    out = {"v2": OutgoingCause.SUPERSEDED}
    live = memory(cell("v1", ready=3, weight=FULL), cell("v2", drain_since=NOW), stable="v1", outgoing=out)
    after = remember(live, StartRollout(service="chat", revision=revision("v2")), MOMENT)
    assert after.outgoing == ()
    assert after.cells_of("v2")[0].drain_since is None
    failed = memory(cell("v1", ready=3, weight=FULL), cell("v2", failure=FAILURE), stable="v1", outgoing=out)
    after = remember(failed, StartRollout(service="chat", revision=revision("v2")), MOMENT)
    assert after.cells_of("v2") == ()


def test_a_cell_that_is_created_is_remembered_whole_and_its_generation_is_spent() -> None:
    before = memory(stable=None)
    start = StartRevision(service="chat", cell=KEY, counts={"Echo": 2}, bounds={})
    after = remember(before, start, MOMENT)
    (made,) = after.cells
    assert (made.counts, made.created_at, after.generations) == ({"Echo": 2}, NOW, {"v1": 1})
    assert GATEWAY_URL in made.config
    assert '"external_scaler_enabled":true' in made.config


def test_a_promotion_keeps_the_old_revision_warm_and_learns_unlisted_counts() -> None:
    before = memory(cell("v1"), cell("v2", code={"Backend": 4}), stable="v1", candidate="v2", learned={"Backend": 2})
    after = remember(before, Promote(service="chat", revision="v2"), MOMENT)
    assert (after.stable, after.candidate, after.learned) == ("v2", None, {"Backend": 4})
    assert [(out.revision, out.cause) for out in after.outgoing] == [("v1", OutgoingCause.REPLACED)]
    assert after.good == ("v2",)


@pytest.mark.parametrize("quarantine", [True, False])
def test_a_rollback_sends_the_candidate_out(quarantine: bool) -> None:
    before = memory(cell("v1"), cell("v2"), stable="v1", candidate="v2")
    undo = RollBack(service="chat", revision="v2", reason=Reason.CRASH_LOOP, message="it died", quarantine=quarantine)
    after = remember(before, undo, MOMENT)
    assert (after.candidate, after.rollout) == (None, None)
    assert [out.revision for out in after.outgoing] == ["v2"]
    assert (after.quarantined("v2") is not None) == quarantine


def test_who_gets_requests_again_has_not_begun_to_drain() -> None:
    before = memory(cell("v1", drain_since=NOW - SETTLED), cell("v2", drain_since=NOW - SETTLED), stable="v1")
    decision = SetWeights(service="chat", route="/chat", weights={"chat.v1.-.-.0": FULL, "chat.v2.-.-.0": 0})
    after = remember(before, decision, MOMENT)
    assert [found.drain_since for found in after.cells] == [None, NOW - SETTLED]


def test_draining_retiring_and_counting_touch_their_cell_only() -> None:
    before = memory(cell("v1", ready=3), cell("v2"), stable="v1")
    after = remember(before, Drain(service="chat", cell=KEY), MOMENT)
    after = remember(after, Retire(service="chat", cell=KEY, is_urgent=True), MOMENT)
    after = remember(after, SetCapacity(service="chat", cell=KEY, deployment="Echo", count=7), MOMENT)
    first, second = after.cells
    assert (first.drain_since, first.is_retired, first.is_urgent, first.counts) == (NOW, True, True, {"Echo": 7})
    assert second == before.cells[1]


def test_a_service_that_comes_back_keeps_its_stable_revision_if_that_still_runs() -> None:
    gone = memory(cell("v1", drain_since=NOW), cell("v2"), stable="v1", candidate="v2", is_removed=True)
    after = remember(gone, AdoptSpec(service="chat", wanted=service()), MOMENT)
    assert (after.is_removed, after.stable, after.candidate) == (False, "v1", None)
    assert after.cells_of("v1")[0].drain_since is None
    assert [out.revision for out in after.outgoing] == ["v2"]


def test_a_service_that_comes_back_too_late_is_deployed_anew() -> None:
    gone = memory(cell("v1", is_retired=True), stable="v1", is_removed=True)
    after = remember(gone, AdoptSpec(service="chat", wanted=service()), MOMENT)
    assert after.stable is None


def test_old_revisions_are_forgotten_but_never_those_in_use() -> None:
    after = memory(cell("v1", ready=3, weight=FULL), stable="v1")
    for number in range(REVISIONS_KEPT + 5):
        after = remember(after, StartRollout(service="chat", revision=revision(f"r{number}")), MOMENT)
    assert len(after.revisions) <= REVISIONS_KEPT + 3
    assert after.revision("v1") is not None


def test_a_new_service_has_nothing_but_its_spec() -> None:
    fresh = new_service(AdoptSpec(service="chat", wanted=service()))
    assert (fresh.stable, fresh.cells, fresh.wanted.revision.id) == (None, (), "v1")


def test_remembering_leaves_the_old_memory_as_it_was() -> None:
    before = memory(cell("v1"), stable="v1")
    copy = replace(before)
    remember(before, Drain(service="chat", cell=KEY), replace(MOMENT, now=NOW + timedelta(seconds=1)))
    assert before == copy


def test_whoever_gave_way_and_has_its_turn_uses_what_had_only_begun_to_drain() -> None:
    draining = memory(cell("v1"), cell("v2", drain_since=NOW), candidate="v2")
    gone = remember(draining, GiveWay(service="chat", to=""), MOMENT)
    assert [one.drain_since for one in gone.cells] == [None, None]
    assert remember(draining, GiveWay(service="chat", to="other"), MOMENT).cells == draining.cells


def test_a_rollout_that_gives_its_requests_back_begins_again() -> None:
    begun = memory(cell("v1"), cell("v2"), candidate="v2")
    assert begun.rollout is not None
    begun = replace(begun, rollout=replace(begun.rollout, step=2, reached_at=NOW))
    back = remember(begun, GiveWay(service="chat", to="other", goes_back=True), MOMENT).rollout
    assert back is not None
    assert (back.step, back.reached_at, back.yields_to) == (0, None, "other")
