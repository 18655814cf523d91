"""What counts against a candidate, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.health import MESSAGE_LIMIT, clipped, deadline_at, deadline_failure, find_failure
from policies.revisions import judge
from policies.view import ServiceView, view_of
from specs.decisions import LatchFailure, RollBack
from specs.memory import Failure
from specs.observed import CellStatus
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import NOW, SETTLED, cell, look, node, seconds, service, steps, world


def candidate(*, spec: Any = None, rollout: Any = None, **options: Any) -> ServiceView:
    wanted = spec or service(version="v2", sizes=3, deadline=60)
    cells = cell("v1", ready=3, weight=FULL), cell("v2", **options)
    return look(wanted, *cells, stable="v1", candidate="v2", rollout=rollout)


def failure(view: ServiceView) -> Failure | None:
    return find_failure(view, view.cells_of("v2")[0])


def status(view: ServiceView, name: str, message: str = "") -> ServiceView:
    """Return the view with the candidate's deployment in another status."""
    seen = view.world.observed.cell("chat.v2.-.-.0")
    assert seen is not None
    deployment = replace(seen.deployments[0], status=name, message=message)
    cells = tuple(
        replace(found, deployments=(deployment,)) if found is seen else found for found in view.world.observed.cells
    )
    return view_of(replace(view.world, observed=replace(view.world.observed, cells=cells)), "chat")


def test_a_failed_build_is_told_in_rays_words() -> None:
    memory, seen, lane = cell("v2", status=CellStatus.DEPLOY_FAILED, message="No module named 'nope'")
    assert seen is not None
    view = look(service(version="v2"), (memory, replace(seen, deployments=()), lane), stable="v1", candidate="v2")
    found = failure(view)
    assert found is not None
    assert (found.reason, found.message) == (Reason.BUILD_FAILED, "No module named 'nope'")


@pytest.mark.parametrize(
    ("name", "was_ready", "reason"),
    [
        ("DEPLOY_FAILED", False, Reason.START_FAILED),
        ("UNHEALTHY", False, Reason.START_FAILED),
        ("UNHEALTHY", True, Reason.HEALTH_CHECK_FAILED),
    ],
)
def test_a_sick_deployment_is_a_failure(name: str, was_ready: bool, reason: Reason) -> None:
    found = failure(status(candidate(starting=1, was_ready=was_ready), name, "it hurts"))
    assert found is not None
    assert found.reason is reason
    assert "it hurts" in found.message


def test_replicas_that_die_again_and_again_are_a_crash_loop() -> None:
    assert failure(candidate(ready=1, died=2)) is None
    found = failure(candidate(ready=1, died=3))
    assert found is not None
    assert found.reason is Reason.CRASH_LOOP


def test_replicas_taken_away_by_a_shrink_or_lost_with_their_node_did_not_crash() -> None:
    assert failure(candidate(ready=1, died=4, shrunk=2)) is None
    view = candidate(ready=1, died=4)
    gone = replace(view.world.observed, nodes=(replace(node(), is_alive=False),))
    assert failure(view_of(replace(view.world, observed=gone), "chat")) is None


def test_a_latched_failure_stays() -> None:
    latched = Failure(reason=Reason.BUILD_FAILED, message="before", at=NOW - SETTLED)
    assert failure(candidate(ready=3, failure=latched)) == latched


@pytest.mark.parametrize(
    ("options", "fails"),
    [
        ({"starting": 1}, True),
        ({"building": True}, True),
        ({"ready": 1}, False),
        ({"starting": 1, "building_since": NOW - seconds(30)}, False),
        ({"seen": False}, False),
    ],
    ids=["starting", "building", "complete", "built anew", "not handed to Serve"],
)
def test_the_deadline_counts_what_was_asked_for_and_is_not_ready(options: dict[str, Any], fails: bool) -> None:
    view = candidate(rollout={"progress_at": NOW - seconds(61)}, **options)
    assert (deadline_failure(view, view.cells_of("v2")[0]) is not None) == fails


def test_no_deadline_runs_in_a_pause() -> None:
    spec = service(version="v2", deadline=60, steps=steps("", 50))
    late = {"progress_at": NOW - seconds(3600), "reached_at": NOW - seconds(3600)}
    assert judge(candidate(spec=spec, rollout=late, starting=1)) == ()
    assert judge(candidate(spec=spec, rollout={**late, "reached_at": None}, starting=1)) != ()


def test_no_deadline_runs_while_no_progress_is_nobodys_fault() -> None:
    late = {"progress_at": NOW - seconds(3600)}
    for untimed in (True, False):
        view = candidate(rollout={**late, "is_untimed": untimed}, starting=1)
        cell_view = view.cells_of("v2")[0]
        assert (deadline_failure(view, cell_view) is None) == untimed
        assert (deadline_at(view, cell_view) is None) == untimed


def test_a_failure_is_latched_before_the_rollback() -> None:
    view = candidate(rollout={"progress_at": NOW - seconds(61)}, starting=1)
    latch, rollback = judge(view)
    assert isinstance(latch, LatchFailure)
    assert isinstance(rollback, RollBack)
    assert rollback.quarantine


def test_without_auto_rollback_a_failure_is_only_latched() -> None:
    spec = service(version="v2", deadline=60, auto_rollback=False)
    view = candidate(spec=spec, rollout={"progress_at": NOW - seconds(61)}, starting=1)
    assert [type(decision) for decision in judge(view)] == [LatchFailure]


def test_of_a_long_traceback_the_end_is_kept() -> None:
    text = clipped("x" * MESSAGE_LIMIT + "ValueError: the cause")
    assert text.endswith("ValueError: the cause")
    assert len(text) <= MESSAGE_LIMIT + 10


def test_the_stable_revision_is_not_judged() -> None:
    assert judge(view_of(world(service(), cell("v1", status=CellStatus.UNHEALTHY), stable="v1"), "chat")) == ()
