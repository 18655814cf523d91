"""Rows: the one value per service that HAProxy chooses by."""

from __future__ import annotations

import pytest

from reconciler.errors import Stalled
from reconciler.gateway.rows import MAX_DEPTH, Row, Share, check_routes, make_row, parse_row
from specs.routes import FULL, MOST_SHARES, CellWeight, ServiceRoute


def service(*weights: int, name: str = "chat", route: str = "/chat") -> ServiceRoute:
    cells = tuple(CellWeight(cell=f"{name}.{number}", weight=weight) for number, weight in enumerate(weights))
    return ServiceRoute(service=name, route=route, cells=cells)


def lanes(row: ServiceRoute) -> dict[str, str]:
    return {cell.cell: f"lane{number}" for number, cell in enumerate(row.cells)}


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ((10000,), "1|chat|/chat|-|10000|lane0"),
        ((9000, 1000), "1|chat|/chat|-|9000|lane0|10000|lane1"),
        ((9000, 0, 1000), "1|chat|/chat|-|9000|lane0|10000|lane2"),
        ((0, 10000), "1|chat|/chat|-|10000|lane1"),
        ((1, 1, 9998), "1|chat|/chat|-|1|lane0|2|lane1|10000|lane2"),
        ((0, 0), "1|chat|/chat|-"),
        ((), "1|chat|/chat|-"),
    ],
)
def test_a_row_holds_ascending_thresholds_of_the_cells_with_weight(weights: tuple[int, ...], text: str) -> None:
    row = service(*weights)
    assert str(make_row(row, lanes(row))) == text


@pytest.mark.parametrize(("route", "depth", "key"), [("/", 0, "/"), ("/a", 1, "/a/"), ("/a/b/c", 3, "/a/b/c/")])
def test_a_row_says_how_many_segments_to_strip(route: str, depth: int, key: str) -> None:
    row = make_row(service(10000, route=route), {"chat.0": "lane0"})
    assert str(row).startswith(f"{depth}|chat|{route}|")
    assert row.key == key


def test_a_row_comes_back_as_it_was_written() -> None:
    shares = (Share(threshold=2500, lane="lane7"), Share(threshold=FULL, lane="lane0"))
    row = Row(service="chat", route="/", shares=shares)
    assert parse_row(str(row)) == row
    assert parse_row(str(row)).weights() == {"lane7": 2500, "lane0": 7500}
    assert parse_row("1|chat|/chat|-").weights() == {}


def test_more_cells_with_weight_than_the_rules_hold_are_refused() -> None:
    even = FULL // MOST_SHARES
    check_routes([service(*([0] * 20 + [even] * (MOST_SHARES - 1) + [FULL - (MOST_SHARES - 1) * even]))])
    with pytest.raises(Stalled, match=f"chat has {MOST_SHARES + 1} cells"):
        check_routes([service(*([1] * MOST_SHARES + [FULL - MOST_SHARES]))])


@pytest.mark.parametrize(
    "route",
    ["", "chat", "/chat/", "/a b", "/a|b", "/a;b", "/a\\b", "/a%20b", "//", "/a//b", "/a\n", "/x" * (MAX_DEPTH + 1)],
)
def test_a_route_that_the_rules_cannot_match_is_refused(route: str) -> None:
    with pytest.raises(Stalled, match="cannot be served"):
        check_routes([service(10000, route=route)])


@pytest.mark.parametrize("route", ["/", "/a", "/a/b.c~d-e_f", "/x" * MAX_DEPTH])
def test_plain_routes_are_taken(route: str) -> None:
    check_routes([service(10000, route=route)])


def test_one_route_has_one_owner() -> None:
    with pytest.raises(Stalled, match="chat and talk both want the route /x"):
        check_routes([service(10000, route="/x"), service(10000, name="talk", route="/x")])


@pytest.mark.parametrize("weights", [(9999,), (10001,), (5000, 5001)])
def test_weights_make_a_whole_or_nothing(weights: tuple[int, ...]) -> None:
    with pytest.raises(Stalled, match="not to 10000 or 0: this is a bug"):
        check_routes([service(*weights)])
