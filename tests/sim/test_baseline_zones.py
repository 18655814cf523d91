"""A fresh baseline of a service that is spread over zones: it starts, carries, is compared, and goes with all zones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.layout
import policies.window
from specs.analysis import Baseline
from specs.placement import SiteState
from tests.builders import steps
from tests.sim.test_baseline import baselines, live_in, weight_of
from tests.sim.test_properties import lives
from tests.sim.test_zones import Life, Turn, deployed, give_back, lose, over_zones, per_zone, spec, turn, turns
from tests.sim.world import Simulation

ASKED = {"min_requests": 50, "baseline": Baseline.FRESH}


def spread(version: str, **options: Any) -> Any:
    ways = {"surge": 6, "analysis": ASKED, "steps": steps(34, "analysis 20")} | options
    return spec(version, 9, **ways)


async def begun(**options: Any) -> Simulation:
    """Return when a candidate of a third has requests beside its baseline."""
    sim = over_zones("a", "b", "c")
    await deployed(sim, spread("v1", **options))
    sim.push(spread("v2", **options))
    await sim.until(lambda: sim.weights().get("v2", 0) > 0, within=120, what="v2 has requests")
    return sim


def zones_of(cells: Any) -> list[str]:
    return sorted(cell.key.zone or "" for cell in cells)


async def check_alike() -> None:
    """The baseline is in every zone with the candidate, as large there, and carries as much."""
    sim = await begun(steps=steps(34, ""))
    await sim.run(60)
    candidate, fresh = sim.memory().cells_of("v2"), baselines(sim)
    assert zones_of(candidate) == ["a", "b", "c"], sim.describe()
    assert zones_of(fresh) == zones_of(candidate), sim.describe()
    assert len({cell.line for cell in fresh}) == 1, fresh
    sizes = [sorted(live_in(sim, cell) for cell in cells) for cells in (candidate, fresh)]
    assert sum(sizes[1]) == 3, sim.describe()
    assert all(one - other in (0, 1) for one, other in zip(*sizes, strict=True)), sizes
    assert sum(weight_of(sim, cell) for cell in candidate) == 3400, sim.describe()
    assert sum(weight_of(sim, cell) for cell in fresh) == 3300, sim.describe()


async def check_compared() -> None:
    """Only the baseline's cells are compared with the candidate's."""
    sim = await begun()
    await sim.run(10)
    comparison = sim.memory().comparison
    assert comparison is not None
    wanted = {cell.key.name for cell in (*baselines(sim), *sim.memory().cells_of("v2"))}
    assert comparison.start
    assert set(comparison.start) <= wanted, comparison


async def test_it_stands_where_the_candidate_stands() -> None:
    await check_alike()


async def test_nobody_else_is_compared() -> None:
    await check_compared()


@pytest.mark.parametrize(("code", "ends"), [("good", "v2"), ("erring", "v1")])
async def test_nothing_of_it_is_left_in_any_zone(code: str, ends: str) -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spread("v1"))
    sim.push(spread("v2", args={"error_rate": 0.3} if code == "erring" else {}))
    await sim.settle(within=600)
    assert not baselines(sim), sim.describe()
    assert sim.weights() == {ends: 100.0}, sim.describe()
    assert sorted(per_zone(sim).values()) == [3, 3, 3], sim.describe()


@pytest.mark.parametrize(("zone", "second"), [("a", 1), ("a", 6), ("b", 3), ("c", 5)])
async def test_a_zone_that_is_lost_meanwhile_takes_its_part_of_both_and_the_rollout_ends(
    zone: str, second: int
) -> None:
    sim = await begun()
    await sim.run(second)
    lose(sim, zone)
    await sim.run(60)
    assert all(weight_of(sim, cell) == 0 for cell in baselines(sim) if cell.key.zone == zone), sim.describe()
    give_back(sim, zone)
    await sim.until(
        lambda: [entry.state for entry in sim.memory().sites] == [SiteState.OPEN] * 3,
        within=300,
        what="all zones are believed",
    )
    await sim.settle(within=1200)
    assert not baselines(sim), sim.describe()
    assert sim.memory().stable == "v2", sim.describe()


async def test_a_daemon_that_is_killed_goes_on_with_the_baseline_of_every_zone() -> None:
    sim = await begun(steps=steps(34, ""))
    await sim.run(5)
    before = {cell.key for cell in baselines(sim)}
    sim.kill()
    await sim.run(20)
    assert {cell.key for cell in baselines(sim)} >= before, sim.describe()
    assert zones_of(baselines(sim)) == sorted({cell.key.zone or "" for cell in baselines(sim)}), "two in one zone"


async def test_a_baseline_that_stays_where_it_began_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.layout, "_beside", lambda *_: {})
    with pytest.raises(AssertionError):
        await check_alike()


async def test_comparing_with_the_old_replicas_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.window, "fresh_line", lambda view: None)
    with pytest.raises(AssertionError):
        await check_compared()


async def test_a_candidate_that_waits_for_what_a_baseline_holds_has_no_cell_of_others_made_and_unmade() -> None:
    life = Life({"Backend": 2, "Echo": 4}, {"surge": 2, "analysis": ASKED}, tolerate=False)
    await life.tell(
        [turn(20, "push", "a", 5), turn(20, "scale", "a", 3), turn(60, "abort", "a"), turn(0, "drain", "a", 4)]
    )
    assert not baselines(life.sim), life.sim.describe()


several = st.one_of(st.integers(4, 9), st.fixed_dictionaries({"Echo": st.integers(3, 6), "Backend": st.integers(2, 4)}))


@lives
@given(size=several, surge=st.sampled_from([2, 3, "100%"]), told=st.lists(turns, min_size=1, max_size=6))
async def test_whatever_happens_to_zones_no_baseline_stays_behind(size: Any, surge: Any, told: list[Turn]) -> None:
    life = Life(size, {"surge": surge, "analysis": ASKED}, tolerate=False)
    try:
        await life.tell(told)
        assert not baselines(life.sim), "B: a baseline stays behind"
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{size} {surge} {told}\n{life.sim.describe()}") from broken
