"""Nodes that compaction has emptied, in virtual time: Ray ends on them, or is ended, before they are given back."""

from __future__ import annotations

from reconciler.errors import Retry
from specs.compaction import Holding
from tests.sim.compacting import Compacting, spec


async def one_freed(*, never_ends: bool = False) -> Compacting:
    """Return a cluster of which one node has just been emptied and freed; Ray goes on there, unless it is ended."""
    work = Compacting(4, 4, 4)
    await work.start(spec(size=2))
    work.drains.sticky = set(work.sim.nodes.nodes)
    work.drains.never_ends = never_ends
    await work.until(lambda: work.kinds().count("NodeFreed") == 1)
    return work


async def test_a_node_on_which_ray_does_not_end_is_ended_and_freed_once() -> None:
    work = Compacting(4, 4, 4, 4)
    await work.start(spec(size=4))
    work.drains.sticky = set(work.sim.nodes.nodes)
    await work.until(lambda: work.state == "Compact" and work.alive == 2)
    await work.run(60)
    assert work.kinds().count("NodeFreed") == 2
    assert (len(work.drains.asked), len(set(work.drains.ended)), len(work.drains.ended)) == (2, 2, 2)
    assert work.least == {"chat": 4}
    assert work.compactor is not None
    assert work.compactor.status.freed == 2


async def test_an_empty_node_that_ray_keeps_is_told_again_and_holds_nothing_up() -> None:
    work = await one_freed()
    work.drains.problem = Retry("Ray does not answer")
    await work.run(60)
    assert (work.alive, work.kinds().count("NodeFreed")) == (3, 1)
    work.drains.problem = None
    await work.until(lambda: work.alive == 1)
    assert work.kinds().count("NodeFreed") == 2


async def test_a_node_on_which_ray_cannot_be_ended_is_told_ever_more_rarely() -> None:
    work = await one_freed(never_ends=True)
    await work.run(3600)
    assert 3 < len(work.drains.ended) < 40


async def test_an_empty_node_on_which_ray_goes_on_takes_nothing_new() -> None:
    work = await one_freed(never_ends=True)
    await work.run(60)
    assert work.compactor is not None
    drained = {node.id for node in work.sim.nodes.nodes.values() if node.is_alive and node.is_draining}
    assert drained
    assert drained <= work.compactor.draining


async def test_a_node_that_is_needed_after_all_ends_too_and_is_not_given_back() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=4))
    work.drains.sticky = set(work.sim.nodes.nodes)
    await work.until(lambda: bool(work.drains.asked))
    await work.run(2)  # The replacement has its place by then; those that are asked for now find none.
    work.sim.push(spec(size=40))
    await work.until(lambda: "NodeKept" in work.kinds())
    assert "NodeFreed" not in work.kinds()
    (kept,) = set(work.drains.asked)
    await work.until(lambda: kept in work.drains.ended)


async def test_ray_is_not_ended_under_what_came_in_the_last_moment() -> None:
    work = await one_freed()
    (freed,) = set(work.drains.asked)
    # An actor asks for nothing once it runs, so what is in use does not show it.
    work.drains.foreign = (Holding(node=freed, what="Tracker", resources={}),)
    await work.run(60)
    assert freed not in work.drains.ended
    work.drains.foreign = ()
    await work.until(lambda: freed in work.drains.ended)
