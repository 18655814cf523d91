"""What candidate and stable are compared on: the same time, the same weights, counters that only grew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from policies.view import ServiceView, view_of
from policies.window import next_comparison, windows
from specs.desired import DesiredService
from specs.evidence import CLIENT_GROUPS, Evidence, LatencyCounts, Window
from specs.memory import Comparison
from specs.observed import TrafficSeen
from specs.routes import FULL, Sticky, StickyKind
from tests.builders import NOW, cell, look, seconds, service, steps

V1, V2 = "chat.v1.-.-.0", "chat.v2.-.-.0"


def counted(requests: int, errors: int = 0) -> Evidence:
    latency = LatencyCounts.of({100: requests})
    return Evidence(requests=requests, errors=errors, latency=latency)


def comparison(**changes: Any) -> Comparison:
    made = Comparison(
        candidate="v2",
        stable="v1",
        since=NOW - seconds(60),
        weights={V1: 9000, V2: 1000},
        start={V1: counted(1000), V2: counted(10)},
    )
    return replace(made, **changes)


def view(
    v1: int = 1900,
    v2: int = 110,
    *,
    share: int = 1000,
    traffic: Mapping[str, Evidence] | None = None,
    spec: DesiredService | None = None,
    **memory: Any,
) -> ServiceView:
    """Return a look at a rollout whose cells have had `v1` and `v2` requests."""
    spec = spec or service(version="v2", steps=steps(10, "60", 50), analysis={})
    cells = cell("v1", ready=3, weight=FULL - share), cell("v2", ready=1, weight=share)
    seen = look(spec, *cells, stable="v1", candidate="v2", **memory)
    counters = {V1: counted(v1), V2: counted(v2)} if traffic is None else traffic
    entries = tuple(TrafficSeen(cell=name, evidence=evidence) for name, evidence in counters.items())
    gateway = seen.world.observed.gateway
    assert gateway is not None
    observed = replace(seen.world.observed, gateway=replace(gateway, traffic=entries))
    return view_of(replace(seen.world, observed=observed), "chat")


def test_a_comparison_begins_when_both_get_requests() -> None:
    begun = next_comparison(view())
    assert begun == comparison(since=NOW, start={V1: counted(1900), V2: counted(110)})
    waiting = next_comparison(view(share=0))
    assert waiting is not None
    assert waiting.start == {}
    assert windows(view(share=0, comparison=waiting)) == ()


def test_it_goes_on_while_the_weights_stay_and_survives_in_memory_alone() -> None:
    assert next_comparison(view(comparison=comparison())) == comparison()
    (window,) = windows(view(comparison=comparison()))
    assert window == Window(candidate=counted(100), stable=counted(900))


def test_other_weights_end_a_window_and_begin_the_next() -> None:
    moved = next_comparison(view(share=5000, comparison=comparison()))
    assert moved is not None
    assert moved.past == (Window(candidate=counted(100), stable=counted(900)),)
    assert (moved.since, moved.start) == (NOW, {V1: counted(1900), V2: counted(110)})
    assert windows(view(2000, 200, share=5000, comparison=moved)) == (
        Window(candidate=counted(100), stable=counted(900)),
        Window(candidate=counted(90), stable=counted(100)),
    )


def test_counters_that_fell_begin_a_window_anew_and_what_had_ended_still_counts() -> None:
    past = (Window(candidate=counted(5), stable=counted(5)),)
    for lost in ({"v1": 500}, {"v2": 3}):
        seen = view(**lost, comparison=comparison(past=past))
        anew = next_comparison(seen)
        assert anew is not None
        assert anew.past == past
        assert anew.since == NOW
        assert windows(seen) == past


def grouped(requests: int) -> Evidence:
    one = Evidence(requests=requests // CLIENT_GROUPS)
    return replace(counted(requests), clients=(one,) * CLIENT_GROUPS)


def test_clients_that_are_told_apart_from_now_on_begin_a_window_that_has_them() -> None:
    spec = service(
        version="v2", steps=steps(10, "60", 50), analysis={}, sticky=Sticky(kind=StickyKind.HEADER, name="x-user")
    )
    past = (Window(candidate=counted(5), stable=counted(5)), Window(candidate=grouped(64), stable=grouped(640)))
    first = view(spec=spec, traffic={V1: grouped(1280), V2: grouped(128)}, comparison=comparison(past=past))
    anew = next_comparison(first)
    assert anew is not None
    assert (anew.since, anew.past) == (NOW, past[1:])
    later = view(spec=spec, traffic={V1: grouped(2560), V2: grouped(256)}, comparison=anew)
    assert next_comparison(later) == anew
    assert windows(later)[-1] == Window(
        candidate=replace(grouped(128), latency=LatencyCounts.of({100: 128})),
        stable=replace(grouped(1280), latency=LatencyCounts.of({100: 1280})),
    )


def test_a_gateway_that_does_not_count_a_cell_gives_no_window() -> None:
    seen = view(traffic={V1: counted(2000)}, comparison=comparison())
    assert windows(seen) == ()
    anew = next_comparison(seen)
    assert anew is not None
    assert anew.past == ()


@pytest.mark.parametrize(
    "memory", [{"candidate": None}, {"stable": None}, {"rollout": {"is_fast": True}}], ids=["none", "first", "back"]
)
def test_nothing_is_compared_without_two_revisions_and_steps(memory: dict[str, Any]) -> None:
    spec = service(version="v2", analysis={})
    options = {"stable": "v1", "candidate": "v2", "comparison": comparison(), **memory}
    cells = cell("v1", ready=3, weight=9000), cell("v2", ready=1, weight=1000)
    assert next_comparison(look(spec, *cells, **options)) is None


def test_another_candidate_is_compared_from_nothing() -> None:
    anew = next_comparison(view(comparison=comparison(candidate="v9")))
    assert anew is not None
    assert (anew.candidate, anew.past, anew.since) == ("v2", (), NOW)


def test_a_service_that_asks_for_no_analysis_remembers_nothing() -> None:
    cells = cell("v1", ready=3, weight=9000), cell("v2", ready=1, weight=1000)
    asked = look(service(version="v2", steps=steps(10, "analysis 60")), *cells, stable="v1", candidate="v2")
    plain = look(service(version="v2", steps=steps(10, "60")), *cells, stable="v1", candidate="v2")
    assert next_comparison(asked) is not None
    assert next_comparison(plain) is None
