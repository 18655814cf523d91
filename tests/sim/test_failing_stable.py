"""A stable revision whose replicas fail again and again, and a warm one that carries the rest: a new commit gets in."""

from __future__ import annotations

import asyncio

import pytest

import policies.capacity
import policies.layout
from tests.builders import Sizes
from tests.sim.scenarios import LAST, Act, Shape, Story, Teller

GOOD = ("good", "good", "good", "good")


def story(sizes: Sizes, code: str, *, surge: int = 1, steps: tuple[int, ...] = (), node: bool = False) -> Story:
    """v1, which starts well and fails again and again from then on, takes over from v0, which stays warm."""
    shape = Shape(
        sizes=sizes,
        surge=surge,
        unavailable=0,
        steps=steps,
        min_ready=0 if steps or "Backend" in sizes else 4,
        scale_down=900,
        code=("good", code, "good", "good"),
    )
    acts = (
        Act(after=60, what="push", service=0, number=1),
        Act(after=120, what="node" if node else "ray", service=0, number=0),
        Act(after=40, what="ray", service=0, number=0),
    )
    return Story(seed=0, shapes=(shape,), acts=acts, drain=25, is_direct=True)


STORIES = {
    "one of two ready at a time": story({"Echo": (1, 3)}, "lame"),
    "the same with a step": story({"Echo": (1, 3)}, "lame", steps=(30,)),
    "a surge of two": story({"Echo": (2, 6)}, "lame", surge=2),
    "two deployments": story({"Echo": (1, 3), "Backend": 2}, "sick", surge=2),
    "two deployments with a step": story({"Echo": (1, 3), "Backend": 2}, "lame", surge=2, steps=(30,), node=True),
}


async def arrives(told: Story) -> Teller:
    """Play a story; its last commit has a quarter of an hour beyond `progressDeadline` to take over."""
    teller = Teller(told)
    await teller.begin()
    await teller.push_last()
    await teller.sim.until(teller.has_arrived, within=1500, what="the last commit serves all requests")
    return teller


@pytest.mark.parametrize("name", STORIES)
async def test_a_new_commit_takes_over(name: str) -> None:
    teller = await arrives(STORIES[name])
    assert teller.sim.weights("alpha") == {LAST: 100.0}


@pytest.mark.parametrize("rule", ["comes first", "goes as a whole"])
def test_it_does_not_without(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rule == "comes first":
        monkeypatch.setattr(policies.capacity, "comes_first", lambda view: False)
    else:
        monkeypatch.setattr(policies.layout, "_keeps_others_out", lambda view, revision, wanted: False)
    with pytest.raises(AssertionError, match="not within 1500"):
        asyncio.run(arrives(STORIES["one of two ready at a time"]))
