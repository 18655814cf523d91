"""The words of a row by which a gateway prefers its own zone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.gateway.book import Book
from reconciler.gateway.crossings import WINDOW, Crossings, Side
from reconciler.gateway.near import MOST_PLACES, Preference, room_of
from reconciler.gateway.rows import Row, make_row, parse_row
from reconciler.gateway.state import Saved
from specs.observed import Endpoint
from specs.routes import FULL, CellWeight, RouteTable, ServiceRoute

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def service(*cells: tuple[str | None, int], may: bool = True) -> ServiceRoute:
    weights = tuple(CellWeight(cell=f"c{n}", weight=weight, zone=zone) for n, (zone, weight) in enumerate(cells))
    return ServiceRoute(service="chat", route="/chat", cells=weights, may_prefer_zone=may)


def row(wanted: ServiceRoute, zone: str | None = "a", room: int = 5) -> Row:
    lanes = {cell.cell: f"lane{number}" for number, cell in enumerate(wanted.cells)}
    return make_row(wanted, lanes, zone, {cell.cell: room for cell in wanted.cells})


def test_the_zone_s_cells_come_first_and_the_others_after_them() -> None:
    found = row(service(("a", 2000), ("b", 3000), ("a", 1000), ("c", 4000), ("b", 0)))
    assert str(found) == (
        "1|chat|/chat|-|2000|lane0|5000|lane1|6000|lane2|10000|lane3"
        "|near:6666:lane0/5:10000:lane2/5|far:4285:lane1/5:10000:lane3/5"
    )


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (service(("a", 5000), ("b", 5000)), {"zone": None}),
        (service(("a", 5000), ("b", 5000)), {"zone": "c"}),
        (service(("a", 5000), ("b", 5000), may=False), {}),
        (service(("a", 5000), ("b", 5000)), {"room": 0}),
        (service(("a", 10_000)), {}),
        (service(("a", 0), ("b", 10_000)), {}),
        (service((None, 10_000)), {}),
        (service(), {}),
        (service(("a", 9000), *(("b", 1000 // (MOST_PLACES + 1)) for _ in range(MOST_PLACES + 1))), {}),
    ],
    ids=["no zone", "not there", "compared", "room unknown", "all near", "near without", "anywhere", "empty", "many"],
)
def test_without_a_choice_a_row_is_as_it_is_without_a_zone(wanted: ServiceRoute, options: dict[str, Any]) -> None:
    assert row(wanted, **options) == row(wanted, zone=None)


@given(
    cells=st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 9)), max_size=10),
    room=st.integers(0, 200),
)
def test_a_preference_changes_no_weight_and_comes_back_as_it_was_written(
    cells: list[tuple[str | None, int]], room: int
) -> None:
    total = sum(weight for _, weight in cells)
    scaled = [(zone, weight * FULL // total) for zone, weight in cells] if total else []
    if scaled:
        scaled[0] = (scaled[0][0], scaled[0][1] + FULL - sum(weight for _, weight in scaled))
    found, plain = row(service(*scaled), room=room), row(service(*scaled), zone=None)
    assert parse_row(str(found)) == found
    assert (found.shares, found.weights()) == (plain.shares, plain.weights())
    for side in (found.preference.near, found.preference.far):
        assert [place.threshold for place in side] == sorted(place.threshold for place in side)
        assert {place.lane for place in side} <= set(plain.weights())
        assert not side or side[-1].threshold == FULL
    sides = (*found.preference.near, *found.preference.far)
    assert not sides or sorted(place.lane for place in sides) == sorted(plain.weights())


def test_a_row_of_a_gateway_without_a_zone_has_no_preference() -> None:
    assert parse_row("1|chat|/chat|-|10000|lane0").preference == Preference()
    assert parse_row("1|chat|/chat|-").preference == Preference()
    with pytest.raises(ValueError, match="int"):
        parse_row("1|chat|/chat|-|10000|lane0|near:x:lane0/5|far:10000:lane1/5")


def test_a_cell_has_the_room_of_its_smallest_replica_and_none_while_one_is_not_known() -> None:
    one = Endpoint(ip="10.0.0.1", port=1, replica="one", room=5)
    assert room_of([one, replace(one, room=3)]) == 3
    assert room_of([one, replace(one, room=0)]) == 0
    assert room_of([]) == 0


def test_the_book_s_rows_follow_what_replicas_take() -> None:
    book = Book(4, Saved(), "a")
    book.lease(RouteTable(services=(service(("a", 5000), ("b", 5000)),)), NOW)
    assert not book.rows()["/chat/"].preference.near
    told = {f"c{n}": (Endpoint(ip="10.0.0.1", port=n, replica="r", room=7),) for n in range(2)}
    book.tell(told, complete=True, now=NOW, unseen=WINDOW)
    assert [(place.lane, place.room) for place in book.rows()["/chat/"].preference.near] == [("lane0", 7)]


def read(crossings: Crossings, at: float, near: int, far: int, generation: int = 1) -> None:
    """Take a reading of one cell with a near and a far server."""
    crossings.credit("chat", f"{generation}:lane0/one", near, Side.NEAR)
    crossings.credit("chat", f"{generation}:lane0/two", far, Side.FAR)
    servers = [f"{generation}:lane0/{name}" for name in ("one", "two")]
    crossings.keep(["chat"], servers, NOW + timedelta(seconds=at))


def test_the_share_is_of_the_last_minute_and_the_totals_of_all_time() -> None:
    crossings = Crossings()
    read(crossings, 0, 0, 0)
    assert crossings.share(["chat"]) is None
    read(crossings, 10, 30, 10)
    assert crossings.share(["chat"]) == 0.25
    read(crossings, 80, 40, 40)
    read(crossings, 150, 50, 40)
    assert crossings.share(["chat"]) == 0.0
    assert crossings.totals() == {"chat": {"near": 50, "far": 40, "unknown": 0}}
    assert crossings.share(["other"]) is None


def test_counts_go_on_in_another_process_and_another_daemon() -> None:
    crossings = Crossings()
    read(crossings, 0, 30, 10)
    later = Crossings(crossings.state())
    read(later, 1, 35, 10)
    read(later, 2, 5, 1, generation=2)
    assert later.totals() == {"chat": {"near": 40, "far": 11, "unknown": 0}}
    assert set(later.state().read) == {"2:lane0/one", "2:lane0/two"}
    later.keep([], [], NOW + timedelta(seconds=3))
    assert later.totals() == {}
