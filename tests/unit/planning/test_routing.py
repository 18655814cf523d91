"""The row of a service beside its weights: who is kept where, and which headers ask for the candidate."""

from __future__ import annotations

from typing import Any

import pytest

from policies.steps import header_matches
from reconciler.planning.routing import route_table
from specs.memory import Baking, Memory, OutgoingCause, Rollout
from specs.routes import FULL, HeaderMatch, ServiceRoute, Sticky, StickyKind
from tests.builders import NOW, cell, service, steps, world

COOKIE = Sticky(kind=StickyKind.COOKIE, name="v")
HEADER = Sticky(kind=StickyKind.HEADER, name="x-user")
OVER = Sticky(kind=StickyKind.OVER, name="v")
STEPS = steps("x=1", "", 50, "x=2", "x=", 80)


def row(*cells: Any, sticky: Sticky | None = None, **options: Any) -> ServiceRoute:
    made = world(service(version="v2", steps=STEPS, sticky=sticky), *cells, **options)
    (found,) = route_table(Memory(services=made.memory.services)).services
    return found


STABLE = cell("v1", ready=3, weight=FULL)
NEW = cell("v2", ready=3, weight=FULL)
WATCHED = Baking(revision="v2", back_to="v1", since=NOW)
MOST, REST = cell("v1", ready=3, weight=9000), cell("v2", ready=1, weight=1000)


@pytest.mark.parametrize(
    ("sticky", "cells", "memory", "expected"),
    [
        (COOKIE, (STABLE,), {"stable": "v1"}, OVER),
        (HEADER, (STABLE,), {"stable": "v1"}, None),
        (COOKIE, (STABLE, cell("v2")), {"stable": "v1", "candidate": "v2"}, COOKIE),
        (HEADER, (MOST, REST), {"stable": "v1", "candidate": "v2"}, HEADER),
        (COOKIE, (MOST, REST), {"stable": "v1", "outgoing": {"v2": OutgoingCause.ROLLED_BACK}}, COOKIE),
        (COOKIE, (cell("v2", ready=1, weight=FULL),), {"candidate": "v2"}, OVER),
        (COOKIE, (NEW,), {"stable": "v2", "baking": WATCHED}, COOKIE),
        (None, (MOST, REST), {"stable": "v1", "candidate": "v2"}, None),
    ],
    ids=[
        "at rest",
        "at rest by header",
        "before weight",
        "steps",
        "rolling back",
        "first deployment",
        "watched",
        "not sticky",
    ],
)
def test_clients_are_kept_while_there_are_two_versions(
    sticky: Sticky | None, cells: Any, memory: dict[str, Any], expected: Sticky | None
) -> None:
    assert row(*cells, sticky=sticky, **memory).sticky == expected


A, B = cell("v1", ready=1, weight=6000, zone="a"), cell("v1", ready=1, weight=4000, zone="b")
C = cell("v2", ready=1, weight=FULL, zone="a")


@pytest.mark.parametrize(
    ("cells", "memory", "may"),
    [
        ((A, B), {"stable": "v1"}, True),
        ((A, B, cell("v2", zone="a")), {"stable": "v1", "candidate": "v2"}, False),
        ((C,), {"stable": "v2", "baking": WATCHED}, False),
        ((MOST, REST), {"stable": "v1", "outgoing": {"v2": OutgoingCause.ROLLED_BACK}}, False),
        ((C, cell("v1", ready=1, zone="b")), {"stable": "v2", "outgoing": {"v1": OutgoingCause.REPLACED}}, True),
        ((cell("v2", ready=1, weight=FULL),), {"candidate": "v2"}, False),
    ],
    ids=["at rest", "rollout", "watched", "rolling back", "the old one is warm", "first deployment"],
)
def test_a_zone_may_be_preferred_while_one_revision_has_all_and_is_not_watched(
    cells: Any, memory: dict[str, Any], may: bool
) -> None:
    found = row(*cells, **memory)
    assert found.may_prefer_zone is may
    assert [one.zone for one in found.cells] == [one[0].key.zone for one in cells]


def test_the_headers_of_a_step_hold_until_it_is_said_again() -> None:
    def values(step: int, **rollout: Any) -> list[str]:
        going = Rollout(started_at=NOW, progress_at=NOW, step=step, **rollout)
        return [match.value for match in header_matches(going, STEPS)]

    assert [values(step) for step in range(7)] == [["1"], ["1"], ["1"], ["2"], [], [], []]
    assert values(2, is_fast=True) == []
    assert header_matches(None, STEPS) == ()


def test_a_header_leads_to_the_candidate_alone_and_to_nobody_once_it_is_given_up() -> None:
    found = row(STABLE, cell("v2", ready=1), stable="v1", candidate="v2").header
    assert found is not None
    assert (found.cell, found.matches) == ("chat.v2.-.-.0", (HeaderMatch(name="x", value="1"),))
    assert row(STABLE, cell("v2", ready=1), stable="v1", outgoing={"v2": OutgoingCause.ROLLED_BACK}).header is None
    assert row(STABLE, stable="v1", candidate="v2").header is None
    assert row(cell("v2", ready=1), candidate="v2").header is None
