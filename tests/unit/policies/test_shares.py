"""A revision's share over its cells: by what each of them carries, and nothing where nobody answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policies.layout import Layout
from policies.rollout import layout_now, move
from policies.shares import cell_weights, departures
from policies.traffic import ready_share
from policies.view import view_of
from policies.window import next_comparison
from specs.decisions import SetWeights
from specs.evidence import Evidence
from specs.observed import TrafficSeen
from specs.placement import Site, SiteMemory, SiteState
from specs.routes import FULL, MOST_SHARES
from tests.builders import NOW, cell, look, service, steps, zones

ZONES = "abc"


def sites(*closed: str) -> tuple[SiteMemory, ...]:
    states = {zone: SiteState.GONE if zone in closed else SiteState.OPEN for zone in ZONES}
    return tuple(SiteMemory(site=Site(zone=zone), state=state, since=NOW) for zone, state in states.items())


def weights_of(view: Any) -> dict[str, int]:
    found = next((one for one in move(view) if isinstance(one, SetWeights)), None)
    return {name.split(".")[2]: weight for name, weight in found.weights.items()} if found else {}


def spread(**ready: int) -> tuple[Any, ...]:
    share, rest = divmod(FULL, len(ready))
    return tuple(
        cell("v1", zone=zone, ready=count, weight=share + (number < rest))
        for number, (zone, count) in enumerate(ready.items())
    )


def looked(*cells: Any, closed: tuple[str, ...] = (), size: int = 6, **options: Any) -> Any:
    return look(service(sizes=size, placement=zones()), *cells, stable="v1", sites=sites(*closed), **options)


def test_requests_go_by_what_each_cell_carries() -> None:
    assert weights_of(looked(*spread(a=2, b=3, c=1))) == {"a": 3333, "b": 5000, "c": 1667}


def test_a_cell_that_does_not_answer_gets_nothing_at_once() -> None:
    assert weights_of(looked(*spread(a=2, b=2, c=0))) == {"a": 5000, "b": 5000, "c": 0}


def test_cells_carry_together_what_each_of_them_carries() -> None:
    assert ready_share(looked(*spread(a=2, b=2, c=1)), "v1") == 8333


def test_a_cell_leaves_when_the_others_do_without_it_and_not_before() -> None:
    short = looked(*spread(a=2, b=2, c=2), closed=("c",))
    assert not departures(short, layout_now(short), short.weights)
    enough = looked(*spread(a=3, b=3, c=1), closed=("c",))
    assert departures(enough, layout_now(enough), enough.weights) == {"chat.v1.c.-.0"}


def test_two_cells_do_not_leave_on_account_of_each_other() -> None:
    view = looked(*spread(a=3, b=3, c=3), size=6, closed=("b", "c"))
    assert len(departures(view, layout_now(view), view.weights)) == 1


def test_the_gateway_is_never_asked_for_more_lanes_than_it_has() -> None:
    each = MOST_SHARES * 2 // 3
    many = [cell("v1", zone=f"z{n}", ready=1, weight=0) for n in range(each)]
    more = [cell("v2", zone=f"z{n}", ready=1, weight=0) for n in range(each)]
    view = look(service("chat", "v2", each, placement=zones()), *many, *more, stable="v1", candidate="v2")
    divided = cell_weights(view, {"v1": 5000, "v2": 5000}, Layout(sites={}))
    assert sum(1 for weight in divided.values() if weight) <= MOST_SHARES
    assert sum(divided.values()) == FULL


def test_a_candidate_in_one_zone_is_compared_with_what_the_stable_revision_has_there() -> None:
    cells = [cell("v1", zone=zone, ready=2, weight=3000) for zone in ZONES]
    fresh = cell("v2", zone="b", ready=1, weight=1000)
    wanted = service("chat", "v2", 6, placement=zones(), steps=steps(10, "analysis 60"))
    view = look(wanted, *cells, fresh, stable="v1", candidate="v2", sites=sites())
    seen = view.world.observed
    assert seen.gateway is not None
    gateway = replace(seen.gateway, traffic=counted(*cells, fresh))
    found = next_comparison(view_of(replace(view.world, observed=replace(seen, gateway=gateway)), "chat"))
    assert found is not None
    assert set(found.start) == {"chat.v1.b.-.0", "chat.v2.b.-.0"}


def counted(*cells: Any) -> tuple[TrafficSeen, ...]:
    return tuple(TrafficSeen(cell=memory.key.name, evidence=Evidence(requests=100)) for memory, _, _ in cells)
