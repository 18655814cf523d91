"""The way out: no weight first, then the requests in flight, then the room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.retirement import retire_outgoing, retire_removed
from policies.service import decide
from policies.view import ServiceView
from specs.decisions import Drain, EndOutgoing, ForgetCell, ForgetService, Retire, SetWeights
from specs.memory import Outgoing, OutgoingCause
from specs.observed import GatewaySeen
from specs.routes import FULL
from tests.builders import NOW, cell, look, seconds, service


def leaving(cause: OutgoingCause, *, since: float = 3600, stable: int = 3, **options: Any) -> ServiceView:
    out = (Outgoing(revision="v1", since=NOW - seconds(since), cause=cause),)
    cells = cell("v2", ready=stable, weight=FULL - (options.get("weight") or 0)), cell("v1", **options)
    view = look(service(version="v2", scale_down=30, max_request=60), *cells, stable="v2", outgoing={"v1": cause})
    return replace(view, memory=replace(view.memory, outgoing=out))


@pytest.mark.parametrize("cause", OutgoingCause)
def test_what_still_has_weight_stays(cause: OutgoingCause) -> None:
    assert retire_outgoing(leaving(cause, ready=1, weight=100)) == ()


def test_the_replaced_revision_stays_warm_for_its_delay() -> None:
    assert retire_outgoing(leaving(OutgoingCause.REPLACED, since=29, ready=1)) == ()
    (drain,) = retire_outgoing(leaving(OutgoingCause.REPLACED, since=30, ready=1))
    assert isinstance(drain, Drain)


def test_it_stays_for_as_long_as_its_successor_does_not_answer() -> None:
    assert retire_outgoing(leaving(OutgoingCause.REPLACED, ready=1, stable=0)) == ()


@pytest.mark.parametrize(("drained", "in_flight", "goes"), [(1, 1, False), (59, 1, False), (60, 1, True), (1, 0, True)])
def test_a_draining_cell_goes_when_nothing_is_in_flight_or_its_requests_had_their_time(
    drained: int, in_flight: int, goes: bool
) -> None:
    view = leaving(OutgoingCause.REPLACED, ready=1, in_flight=in_flight, drain_since=NOW - seconds(drained))
    assert any(isinstance(decision, Retire) for decision in retire_outgoing(view)) == goes


def test_what_a_forgetful_gateway_has_in_flight_is_not_known() -> None:
    view = leaving(OutgoingCause.REPLACED, ready=1, weight=None, drain_since=NOW - seconds(1))
    assert retire_outgoing(view) == ()
    removed = look(service(), cell("v1", weight=None, drain_since=NOW), stable="v1", is_removed=True)
    assert retire_removed(removed) == ()


def test_a_removed_services_cell_goes_when_the_gateway_has_taken_its_drained_lane_back() -> None:
    view = look(service(), cell("v1", weight=None, drain_since=NOW), stable="v1", is_removed=True)
    gateway = GatewaySeen(is_direct=True, lanes=(), drained=frozenset({view.cells[0].name}))
    world = replace(view.world, observed=replace(view.world.observed, gateway=gateway))
    assert [type(decision) for decision in retire_removed(replace(view, around=world))] == [Retire]


def test_only_a_rollback_is_in_a_hurry() -> None:
    for cause in OutgoingCause:
        (retire,) = retire_outgoing(leaving(cause, ready=1, drain_since=NOW - seconds(1)))
        assert isinstance(retire, Retire)
        assert retire.is_urgent == (cause is OutgoingCause.ROLLED_BACK)


def test_a_retired_cell_is_forgotten_when_it_is_seen_gone() -> None:
    there = leaving(OutgoingCause.REPLACED, stopping=1, is_retired=True)
    assert retire_outgoing(there) == ()
    gone = leaving(OutgoingCause.REPLACED, seen=False, is_retired=True)
    assert [type(decision) for decision in retire_outgoing(gone)] == [ForgetCell]


def test_an_outgoing_revision_without_cells_is_over() -> None:
    view = look(service(), cell("v1", ready=3, weight=FULL), stable="v1", outgoing={"v0": OutgoingCause.REPLACED})
    assert retire_outgoing(view) == (EndOutgoing(service="chat", revision="v0"),)


@pytest.mark.parametrize("drain_since", [None, NOW - seconds(61)])
def test_what_takes_over_since_all_others_broke_is_not_taken_away_by_the_same_look(drain_since: Any) -> None:
    view = leaving(OutgoingCause.SUPERSEDED, stable=0, ready=1, weight=0, drain_since=drain_since)
    decisions = decide(view.world, "chat", lambda decision: decision)
    (routed,) = (one.weights for one in decisions if isinstance(one, SetWeights))
    assert routed[view.cells_of("v1")[0].name] == FULL
    assert not any(isinstance(one, Drain | Retire) for one in decisions)


def test_a_removed_service_drains_goes_and_is_forgotten() -> None:
    routed = look(service(), cell("v1", ready=3, weight=0), stable="v1", is_removed=True)
    assert [type(decision) for decision in retire_removed(routed)] == [Drain]
    busy = look(service(), cell("v1", ready=3, in_flight=1, drain_since=NOW), stable="v1", is_removed=True)
    assert retire_removed(busy) == ()
    idle = look(service(), cell("v1", ready=3, drain_since=NOW), stable="v1", is_removed=True)
    assert [type(decision) for decision in retire_removed(idle)] == [Retire]
    assert retire_removed(look(service(), stable="v1", is_removed=True)) == (ForgetService(service="chat"),)
