"""A newer commit at every stage of a rollout, and again while that one takes over: the last one wins, no request ends.

The stages are where the first candidate stands when the second commit comes. What each chain then does is watched by
the invariants at every effect: no weight on what is torn down, no request cut, no replica too many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from reconciler.planning import remember
from specs.desired import DesiredService
from specs.memory import OutgoingCause
from tests.builders import service, steps
from tests.sim.world import Simulation

STEPS = steps(5, "20", 25, "20", 50, "20", 90, "20")

CHAINS = ("aba", "abab", "abc", "abac")

Stage = Callable[[Simulation], bool]


def carries(low: float, high: float) -> Stage:
    """The candidate has this share of the requests, in percent."""
    return lambda sim: sim.memory().candidate == "b" and low <= sim.weights().get("b", 0) < high


def gives_back(sim: Simulation) -> bool:
    """The candidate was aborted at half of the requests and still holds some."""
    is_leaving = any(out.cause is OutgoingCause.ROLLED_BACK for out in sim.memory().outgoing)
    return is_leaving and sim.weights().get("b", 0) > 0


STAGES: Mapping[str, Stage] = {
    "at 0%": carries(0, 1),
    "below 30%": carries(1, 30),
    "30 to 70%": carries(30, 70),
    "70 to 99%": carries(70, 100),
    "in a rollback": gives_back,
}


def spec(version: str) -> DesiredService:
    return service(version=version, sizes=4, steps=STEPS, scale_down=10, max_request=15, min_ready=2)


async def take_over(chain: str, stage: str, gap: int) -> Simulation:
    """Play a chain of commits: the third one at `stage`, each further one `gap` seconds after the one before."""
    sim = Simulation()
    await sim.start()
    sim.push(spec(chain[0]))
    await sim.settle()
    sim.push(spec(chain[1]))
    if stage == "in a rollback":
        await sim.until(lambda: carries(50, 100)(sim), what="half of the requests")
        assert await sim.order("abort") == ""
    await sim.until(lambda: STAGES[stage](sim), what=stage)
    for version in chain[2:]:
        sim.push(spec(version))
        await sim.run(gap)
    await sim.settle(within=2400)
    return sim


@pytest.mark.parametrize("gap", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("chain", CHAINS)
async def test_the_last_commit_wins_and_no_request_is_lost(chain: str, stage: str, gap: int) -> None:
    sim = await take_over(chain, stage, gap)
    assert sim.memory().stable == chain[-1]
    assert sim.weights() == {chain[-1]: 100.0}
    assert sim.counts() == {chain[-1]: 4}
    assert {cell.key.revision for cell in sim.memory().cells} == {chain[-1]}
    assert sim.serve.peak("chat", "Echo") <= 5
    assert sim.watch.requests.answered > 30


@pytest.mark.parametrize("stage", STAGES)
async def test_going_back_to_the_live_revision_starts_no_canary(stage: str) -> None:
    sim = await take_over("aba", stage, 1)
    started = [event.revision for event in sim.events() if event.kind == "RolloutStarted"]
    assert started == ["a", "b"]
    assert "chat.a.-.-.1" not in sim.watch.created


async def test_reviving_what_is_torn_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule broken that a retired cell stays retired, its last requests go to what Serve takes away."""

    async def back_to_what_leaves() -> None:
        sim = await take_over("ab", "30 to 70%", 0)
        sim.push(spec("a"))
        await sim.until(lambda: any(cell.is_retired for cell in sim.memory().cells), what="a retired cell")
        sim.push(spec("b"))
        await sim.settle(within=2400)

    await back_to_what_leaves()
    monkeypatch.setattr(remember, "_revived", lambda cell: replace(cell, is_retired=False, drain_since=None))
    with pytest.raises(AssertionError, match=r"^I3: chat routes to \['chat.b.-.-.0'\], which it is tearing down"):
        await back_to_what_leaves()


async def test_what_is_replaced_before_it_took_over_makes_room_where_there_is_no_surge() -> None:
    """One replica and no surge: the first revision has all requests and is not promoted yet when the next one comes."""
    sim = Simulation()
    await sim.start()
    options = {"sizes": 1, "surge": 0, "unavailable": 1, "steps": (), "min_ready": 4}
    sim.push(service(version="a", **options))
    await sim.until(lambda: sim.weights().get("a", 0) == 100, what="all requests")
    assert sim.memory().stable is None
    sim.push(service(version="b", **options))
    await sim.settle()
    assert (sim.memory().stable, sim.weights()) == ("b", {"b": 100.0})
