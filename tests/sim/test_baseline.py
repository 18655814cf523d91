"""A fresh baseline in random lives: it holds I1, I2 and I9 like everybody else, and never stays behind.

Each property is seen to bite by a rule that is broken on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

import policies.baseline
import policies.retirement
import policies.rollout
import policies.window
from policies.view import ServiceView
from specs.analysis import Baseline
from specs.memory import CellMemory
from tests.builders import service, steps
from tests.sim.scenarios import ACCIDENTS, CODE, PEOPLE, Story, Teller, stories
from tests.sim.test_mutations import patch
from tests.sim.test_properties import lives
from tests.sim.world import Simulation

ASKED = {"min_requests": 50, "baseline": Baseline.FRESH}


def spec(version: str, code: str = "good", **changes: Any) -> Any:
    options: dict[str, Any] = {
        "args": CODE[code],
        "sizes": 10,
        "surge": 3,
        "steps": steps(10, "analysis 10", 30, "analysis 10"),
        "analysis": ASKED,
        "scale_down": 5,
        **changes,
    }
    return service(version=version, max_request=20, **options)


def baselines(sim: Simulation, name: str = "chat") -> list[CellMemory]:
    return [cell for cell in sim.memory(name).cells if cell.is_baseline]


def weight_of(sim: Simulation, cell: CellMemory) -> int:
    row = sim.gateway.table.service(cell.key.service)
    return next((one.weight for one in row.cells if one.cell == cell.key.name), 0) if row else 0


def live_in(sim: Simulation, cell: CellMemory) -> int:
    found = sim.serve.instance.applications[cell.key.name]
    return sum(len(deployment.replicas) for deployment in found.deployments.values())


async def begun(code: str = "good", **changes: Any) -> Simulation:
    """Deploy v1, push v2, and return when v2 has its first share."""
    sim = Simulation()
    await sim.start()
    sim.push(spec("v1", **changes))
    await sim.settle()
    sim.push(spec("v2", code, **changes))
    await sim.until(lambda: sim.weights().get("v2", 0) > 0, within=60, what="v2 has requests")
    return sim


# -- the properties ------------------------------------------------------------------------------------------


async def check_alike() -> None:
    """The baseline starts with the candidate, is as large, and gets as much; who serves keeps the rest."""
    sim = await begun(steps=steps(10, "", 30, ""))
    (fresh,) = baselines(sim)
    (candidate,) = sim.memory().cells_of("v2")
    assert fresh.created_at == candidate.created_at
    for share, count in ((10, 1), (30, 3)):
        await sim.until(lambda share=share: weight_of(sim, fresh) == share * 100, within=120, what=f"{share}%")
        await sim.run(45)  # Whoever grew first waits no longer for what stops.
        assert weight_of(sim, fresh) == weight_of(sim, candidate) == share * 100, sim.describe()
        assert live_in(sim, fresh) == live_in(sim, candidate) == count, sim.describe()
        await sim.order("promote", "chat")


async def check_together() -> None:
    """Nobody gets a request before the other, also when the baseline is ready some looks after the candidate."""
    for later in (0, 1, 2, 3):
        sim = Simulation()
        await sim.start()
        sim.push(spec("v1", min_ready=4))
        await sim.settle()
        sim.book.default = replace(sim.book.default, start_time=timedelta(seconds=2 + later))
        sim.push(spec("v2", min_ready=4, args={"start_seconds": 2}))
        await sim.until(lambda sim=sim: sim.weights().get("v2", 0) > 0, within=60, what="v2 has requests")
        (fresh,) = baselines(sim)
        (candidate,) = sim.memory().cells_of("v2")
        assert weight_of(sim, fresh) == weight_of(sim, candidate) > 0, sim.describe()


async def check_compared() -> None:
    """What is compared with the candidate is the baseline, and nobody else."""
    sim = await begun()
    await sim.run(20)
    (fresh,) = baselines(sim)
    comparison = sim.memory().comparison
    assert comparison is not None
    assert set(comparison.start) == {fresh.key.name, "chat.v2.-.-.0"}, comparison


async def check_gone() -> None:
    """Nothing of it is left when the rollout is over, whether that went well, badly, or was given up."""
    for code, order, ends in (("good", "", "v2"), ("erring", "", "v1"), ("good", "abort", "v1")):
        sim = await begun(code)
        if order:
            await sim.order(order, "chat")
        await sim.settle(within=400)
        assert not baselines(sim), sim.describe()
        assert sim.weights() == {ends: 100.0}, sim.describe()
        assert sim.counts("chat", "Echo") == {ends: 10}, sim.describe()


async def check_restarts() -> None:
    """A daemon that is killed goes on with the baseline that there is."""
    for at in (1, 4, 9, 20):
        sim = await begun()
        (fresh,) = baselines(sim)
        await sim.run(at)
        sim.kill()
        await sim.run(5)
        assert [cell.key for cell in baselines(sim)] == [fresh.key], sim.describe()
        await sim.settle(within=400)
        assert sim.memory().stable == "v2"


async def check_takeover() -> None:
    """A newer commit has a baseline of its own; the one before goes with its candidate."""
    sim = await begun()
    (first,) = baselines(sim)
    sim.push(spec("v3"))
    await sim.until(lambda: sim.weights().get("v3", 0) > 0, within=200, what="v3 has requests")
    routed = [cell for cell in baselines(sim) if weight_of(sim, cell)]
    assert routed, sim.describe()
    assert all(cell.key != first.key for cell in routed), sim.describe()
    await sim.settle(within=400)
    assert not baselines(sim)
    assert sim.memory().stable == "v3"


async def check_never_starts() -> None:
    """A baseline that does not start holds the candidate back for the deadline, and then no longer."""
    sim = Simulation()
    await sim.start()
    sim.push(spec("v1", deadline=60))
    await sim.settle()
    sim.book.homeless.add("v1")
    sim.push(spec("v2", deadline=60))
    await sim.run(20)
    assert sim.weights() == {"v1": 100.0}
    assert sim.status().reason.value == "Building"
    await sim.settle(within=400)
    assert sim.memory().stable == "v2", sim.describe()


async def check_no_room() -> None:
    """Where the budget has room for a candidate only, it is compared with the stable revision as it is."""
    sim = await begun(sizes=4, surge=1)
    assert not baselines(sim)
    await sim.settle(within=400)
    assert sim.memory().stable == "v2"


CHECKS = (
    check_alike,
    check_together,
    check_compared,
    check_gone,
    check_restarts,
    check_takeover,
    check_never_starts,
    check_no_room,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_holds(check: Callable[[], Any]) -> None:
    await check()


# -- each of them bites --------------------------------------------------------------------------------------


Change = Callable[[pytest.MonkeyPatch], None]


def always_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.window, "fresh_line", lambda view: None)


def once_ready(view: ServiceView) -> bool:
    line = policies.baseline.fresh_line(view)
    return line is not None and not any(cell.memory.was_ready for cell in view.cells_of(line))


MUTATIONS: tuple[tuple[str, Change, Callable[[], Any]], ...] = (
    ("the baseline gets half", patch(policies.rollout, "fresh_share", lambda weight: weight // 2), check_alike),
    ("who is ready first goes first", patch(policies.rollout, "is_awaited", once_ready), check_together),
    ("the old replicas are compared", always_none, check_compared),
    ("it stays", patch(policies.retirement, "left_over", lambda view: ()), check_gone),
    ("nobody waits", patch(policies.rollout, "is_awaited", lambda view: False), check_never_starts),
    ("it is waited for without end", patch(policies.baseline, "_late", lambda view, line: None), check_never_starts),
    ("there is always room", patch(policies.baseline, "has_no_room", lambda view: ""), check_no_room),
)


@pytest.mark.parametrize(
    ("name", "change", "check"), MUTATIONS, ids=[name.replace(" ", "-") for name, _, _ in MUTATIONS]
)
async def test_a_broken_rule_is_found(
    name: str, change: Change, check: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        await check()


# -- random lives --------------------------------------------------------------------------------------------


def asking(story: Story) -> Story:
    """Return the story with a fresh baseline at each step of each service that has room for one."""
    shapes = tuple(replace(shape, asks=True, fresh=True) for shape in story.shapes)
    return replace(story, shapes=shapes)


async def tell(story: Story) -> None:
    teller = Teller(story)
    try:
        sim = await teller.tell()
        for name in teller.versions:
            assert not baselines(sim, name), f"B: a baseline of {name} stays behind"
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{story}\n{teller.sim.describe()}") from broken


@lives
@given(story=stories("push", "push", "revert", "scale", services=1).map(asking))
async def test_commits_alone(story: Story) -> None:
    await tell(story)


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, services=2, acts=12).map(asking))
async def test_everything_at_once(story: Story) -> None:
    await tell(story)
