"""Members of one group that change in one commit fall together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reconciler.planning.plan
from specs.desired import DesiredService
from specs.reasons import Reason
from tests.builders import service, steps
from tests.sim.scenarios import CODE
from tests.sim.test_properties import lives
from tests.sim.world import Simulation

GROUP = ("alpha", "beta", "gamma")


def member(
    name: str, version: str, code: str = "good", pauses: tuple[int | str, ...] = (50, "5"), **extra: Any
) -> DesiredService:
    return service(
        name,
        version,
        2,
        args=CODE[code],
        steps=steps(*pauses),
        group=extra.pop("group", "search"),
        deadline=90,
        scale_down=extra.pop("scale_down", 0),
        **extra,
    )


async def _steady(*names: str) -> Simulation:
    sim = Simulation()
    await sim.start()
    sim.push(*(member(name, "v1") for name in names))
    await sim.settle()
    return sim


async def _fall(sim: Simulation, wanted: Mapping[str, DesiredService]) -> None:
    sim.push(*wanted.values())
    await sim.run(5)
    await sim.settle()
    for name in wanted:
        memory = sim.memory(name)
        bad = memory.wanted.revision.id
        assert memory.candidate is None
        assert memory.stable != bad, f"group: {name} stays at {bad}\n{sim.describe()}"
        assert memory.quarantined(bad) is not None, f"group: {bad} of {name} is not quarantined"
        assert sim.weights(name) == {"v1": 100.0}


async def test_members_wherever_they_stand_fall_with_the_one_that_fails() -> None:
    """beta arrives at once, alpha pauses for a person, gamma fails late."""
    sim = await _steady(*GROUP)
    wanted = {
        "alpha": member("alpha", "v2", pauses=(50, "")),
        "beta": member("beta", "v2", pauses=()),
        "gamma": member("gamma", "v2", pauses=(50, "600")),
    }
    sim.push(*wanted.values())
    await sim.until(lambda: sim.memory("beta").stable == "v2", what="beta arrives")
    await sim.until(lambda: sim.status("alpha").reason is Reason.PAUSING, what="alpha pauses")
    await sim.until(lambda: sim.status("gamma").reason is Reason.PAUSING, what="gamma pauses")
    sim.book.sick.add("gamma.v2.-.-.0")
    await _fall(sim, wanted)
    told = sim.memory("beta").quarantined("v2")
    assert told is not None
    assert told.reason is Reason.GROUP_ROLLED_BACK
    assert "together with gamma of the group search" in told.message
    assert any("gamma" in event.message for event in sim.events("alpha") if event.kind == "RolledBack")


async def test_who_did_not_change_or_is_of_another_group_stays() -> None:
    sim = await _steady("alpha", "beta")
    other = member("gamma", "v1", group="other")
    sim.push(member("alpha", "v1"), member("beta", "v1"), other)
    await sim.settle()
    sim.push(member("alpha", "v2", "unbuildable"), member("beta", "v1"), member("gamma", "v2", group="other"))
    await sim.settle()
    assert [sim.memory(name).stable for name in GROUP] == ["v1", "v1", "v2"]
    assert not sim.memory("beta").quarantine


async def test_a_person_s_abort_takes_the_group_back_and_the_next_commit_is_tried() -> None:
    sim = await _steady("alpha", "beta")
    sim.push(member("alpha", "v2", pauses=(50, "")), member("beta", "v2", pauses=()))
    await sim.until(lambda: sim.memory("beta").stable == "v2", what="beta arrives")
    await sim.until(lambda: sim.status("alpha").reason is Reason.PAUSING, what="alpha pauses")
    assert await sim.order("abort", "alpha") == ""
    await sim.settle()
    assert [sim.memory(name).stable for name in ("alpha", "beta")] == ["v1", "v1"]
    sim.push(member("alpha", "v3"), member("beta", "v3"))
    await sim.settle()
    assert [sim.memory(name).stable for name in ("alpha", "beta")] == ["v3", "v3"]


async def test_a_member_without_an_earlier_revision_stays() -> None:
    sim = await _steady("alpha")
    sim.push(member("alpha", "v2", "lame", pauses=(50, "60")), member("beta", "v1", pauses=()))
    await sim.settle()
    assert sim.memory("alpha").stable == "v1"
    assert sim.memory("beta").stable == "v1"


codes = st.sampled_from(["good", "good", "slow", "unbuildable", "unstartable", "sick", "lame"])
courses = st.sampled_from([(), (50,), (10, "5", 50, "5"), (50, "40")])


@lives
@given(
    plans=st.lists(st.tuples(codes, courses, st.sampled_from([0, 15])), min_size=2, max_size=3).filter(
        lambda plans: any(code in ("unbuildable", "unstartable", "lame") for code, _, _ in plans)
    ),
    dies=st.lists(st.integers(1, 60), max_size=2),
)
async def test_after_a_members_failure_nobody_stays_at_the_bad_commit(
    plans: list[tuple[str, tuple[int | str, ...], int]], dies: list[int]
) -> None:
    names = GROUP[: len(plans)]
    sim = await _steady(*names)
    for effect in dies:
        sim.crash.arm(effect, is_after=bool(effect % 2))
    made = zip(names, plans, strict=True)
    await _fall(sim, {name: member(name, "v2", code, way, scale_down=warm) for name, (code, way, warm) in made})


async def test_letting_members_stay_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler.planning.plan, "fallen_with", lambda services, decided: {})
    sim = await _steady("alpha", "beta")
    with pytest.raises(AssertionError, match=r"^group: alpha stays"):
        await _fall(sim, {"alpha": member("alpha", "v2"), "beta": member("beta", "v2", "unbuildable")})
