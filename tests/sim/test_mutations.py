"""Each property bites: with one rule of the daemon broken, a story that goes well otherwise must fail, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

import policies.capacity
import policies.membership
import policies.pacing
import policies.retirement
import policies.revisions
import policies.rollout
import policies.traffic
import reconciler.adapters.serve_put
import reconciler.loop
import reconciler.planning.compile
import reconciler.planning.plan
import reconciler.planning.routing
from policies.view import ServiceView
from reconciler.observe import observe
from specs.decisions import Decision, RollBack
from specs.desired import ClusterSettings
from specs.effects import SetRoutes
from specs.memory import Failure, ServiceMemory
from specs.routes import FULL, HeaderMatch, HeaderRoute
from specs.world import World
from tests.sim.scenarios import Act, Shape, Story, Teller

THREE = Shape(
    sizes={"Echo": 3}, surge=1, unavailable=0, steps=(10, "5", 50, "5"), min_ready=4, scale_down=15, code=("good",) * 4
)
BAD = replace(THREE, code=("good", "lame", "unbuildable", "homeless"))
PAIR = replace(THREE, sizes={"Echo": 2, "Backend": 1}, steps=(50, "20"), min_ready=0)
HALF = Shape(
    sizes={"Echo": 6, "Backend": 2},
    surge=1,
    unavailable="50%",
    steps=(33, "5", 67, "5"),
    min_ready=4,
    scale_down=0,
    code=("good", "sick", "sick", "sick"),
)


def story(*acts: tuple[int, str, int], shapes: tuple[Shape, ...] = (THREE,), seed: int = 0) -> Story:
    """Return a story; an act is (after how many seconds, what, number)."""
    told = tuple(Act(after=after, what=what, service=0, number=number) for after, what, number in acts)
    return Story(seed=seed, shapes=shapes, acts=told)


CANARY = story((5, "push", 1), (200, "git", 0))
TAKEOVER = story((5, "push", 1), (45, "push", 2), (90, "git", 0))
PAIR_TAKEOVER = story((5, "push", 1), (20, "push", 2), (200, "git", 0), shapes=(PAIR,))
HASTY = story((5, "push", 1), (150, "git", 0), shapes=(replace(THREE, scale_down=0),))
CRASHES = story(
    (5, "push", 1), (60, "git", 0), shapes=(replace(BAD, sizes={"Echo": 2}, steps=(50, "60"), min_ready=0),)
)
BROKEN_BUILD = story((5, "push", 2), (100, "git", 0), shapes=(BAD,))
OUTAGE = story((5, "push", 1), (20, "ray", 4), (60, "git", 0))
NO_WAY_BACK = story((5, "push", 1), (120, "withdraw", 0), (1, "rollback", 0), (90, "git", 0))
THREE_SERVICES = story((30, "git", 0), shapes=(THREE, THREE, THREE))
UNHEARD = story((8, "writes", 8), (20, "push", 5), (3, "push", 1), (3, "writes", 10), shapes=(HALF,), seed=2)
DEATHS = story((5, "push", 1), (8, "crash", 7), (8, "crash", 8), (20, "crash", 9), (60, "git", 0))

Change = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One rule broken. `breaks` is how the failure must begin."""

    name: str
    change: Change
    story: Story
    breaks: str


def patch(owner: Any, name: str, value: Any) -> Change:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def wider_room(monkeypatch: pytest.MonkeyPatch) -> None:
    room = ServiceView.room
    monkeypatch.setattr(ServiceView, "room", lambda view, name: room(view, name) + 1)


def sees_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(*args: Any) -> World:
        world = await observe(*args)
        return replace(world, observed=replace(world.observed, complete=True))

    monkeypatch.setattr(reconciler.loop, "observe", look)


def saves_last(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = reconciler.planning.compile.compile_effects

    def reordered(*args: Any) -> Any:
        made = compiled(*args)
        return replace(made, effects=tuple(reversed(made.effects)))

    monkeypatch.setattr(reconciler.loop, "compile_effects", reordered)


def routes_unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The route goes before the save, everything else after it."""
    compiled = reconciler.planning.compile.compile_effects

    def reordered(*args: Any) -> Any:
        made = compiled(*args)
        return replace(made, effects=tuple(sorted(made.effects, key=lambda effect: not isinstance(effect, SetRoutes))))

    monkeypatch.setattr(reconciler.loop, "compile_effects", reordered)


def finishes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = policies.revisions.choose
    kept = lambda view: None if view.memory.candidate else choose(view)  # noqa: E731 - shorter than a function here
    monkeypatch.setattr("policies.service.choose", kept)


ROLLED_BACK = policies.revisions.rolled_back


def forgives(view: ServiceView, failure: Failure) -> tuple[Decision, ...]:
    given_up = ROLLED_BACK(view, failure)
    return tuple(replace(one, quarantine=False) if isinstance(one, RollBack) else one for one in given_up)


def leads_astray(service: ServiceMemory) -> HeaderRoute:
    return HeaderRoute(cell=service.cells[0].key.name, matches=(HeaderMatch(name="x", value="1"),))


MUTATIONS = (
    Mutation(
        name="whatever is ready carries everything",
        change=patch(policies.traffic, "ready_share", lambda view, revision: FULL),
        story=CANARY,
        breaks="I1",
    ),
    Mutation(
        name="what does not answer keeps its weight",
        change=patch(policies.traffic, "_without_broken", lambda view, current, answering: current),
        story=CRASHES,
        breaks="I1",
    ),
    Mutation(name="one replica more than the budget", change=wider_room, story=CANARY, breaks="I2"),
    Mutation(
        name="a shrink takes what still serves",
        change=lambda monkeypatch: (
            monkeypatch.setattr(policies.capacity, "_spare", lambda *args: 99),
            monkeypatch.setattr(policies.capacity, "_carried", lambda *args: 0),
        )[0],
        story=CANARY,
        breaks="I2",
    ),
    Mutation(
        name="a shrink that Serve never heard is done later",
        change=patch(reconciler.planning.compile, "_as_said", lambda cell, seen, said: cell),
        story=UNHEARD,
        breaks="I2",
    ),
    Mutation(
        name="a cell goes before its requests have ended",
        change=patch(policies.retirement, "is_due", lambda view, cell: True),
        story=HASTY,
        breaks="I3",
    ),
    Mutation(
        name="a cell goes that still has weight",
        change=patch(policies.retirement, "_may_go", lambda view, outgoing: True),
        story=TAKEOVER,
        breaks="I3",
    ),
    Mutation(name="a failed read is taken for an empty cluster", change=sees_everything, story=OUTAGE, breaks="I4"),
    Mutation(name="an old rollout is finished first", change=finishes_first, story=TAKEOVER, breaks="I5"),
    Mutation(
        name="quarantine is ignored",
        change=patch(ServiceMemory, "quarantined", lambda memory, revision: None),
        story=BROKEN_BUILD,
        breaks="I6",
    ),
    Mutation(
        name="a way back that failed is tried again",
        change=patch(policies.revisions, "rolled_back", forgives),
        story=NO_WAY_BACK,
        breaks="I6: alpha starts v0 again",
    ),
    Mutation(
        name="a header leads to whoever was there first",
        change=patch(reconciler.planning.routing, "_header", leads_astray),
        story=CANARY,
        breaks="I6: a header leads",
    ),
    Mutation(name="effects before their intent", change=saves_last, story=DEATHS, breaks="I[18]"),
    Mutation(name="weights before they are saved", change=routes_unsaved, story=CANARY, breaks="I8"),
    Mutation(
        name="candidates wait for room that nobody gives up",
        change=lambda monkeypatch: (
            monkeypatch.setattr(policies.capacity, "heir", lambda view: None),
            monkeypatch.setattr(policies.rollout, "heir", lambda view: None),
        )[0],
        story=PAIR_TAKEOVER,
        breaks="not within",
    ),
    Mutation(
        name="all services move at once",
        change=patch(policies.pacing, "limit_moving", lambda decision, busy, limit: None),
        story=THREE_SERVICES,
        breaks="3 services moved at once",
    ),
)


async def _tell(told: Story) -> None:
    teller = Teller(told, moving=1)
    await teller.tell()
    moving = teller.sim.watch.most_moving
    assert moving <= 1, f"{moving} services moved at once"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
async def test_a_broken_rule_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.change(monkeypatch)
    with pytest.raises(AssertionError, match=rf"^{mutation.breaks}"):
        await _tell(mutation.story)


WELL = {
    **{"canary": CANARY, "hasty": HASTY, "takeover": TAKEOVER, "pair": PAIR_TAKEOVER, "crashes": CRASHES},
    **{"build": BROKEN_BUILD, "outage": OUTAGE, "three": THREE_SERVICES, "unheard": UNHEARD, "deaths": DEATHS},
    **{"no-way-back": NO_WAY_BACK},
}


@pytest.mark.parametrize("told", WELL.values(), ids=WELL)
async def test_the_same_stories_go_well_otherwise(told: Story) -> None:
    await _tell(told)


async def _foreign_story() -> None:
    teller = Teller(CANARY)
    await teller.sim.start()
    teller.push()
    await teller.sim.run(15)
    ours = [dict(config) for config in teller.sim.serve.configs().values()]
    teller.sim.serve.instance.top_level["target_capacity"] = 75.0
    teller.sim.serve.put_by_somebody_else([*ours, {"name": "theirs", "route_prefix": "/t", "import_path": "their:app"}])
    await teller.sim.run(10)
    await teller.end()
    assert "theirs" in teller.sim.serve.configs()


@pytest.mark.parametrize(
    ("name", "value"),
    [("_foreign", lambda details, ours: []), ("_top_level", lambda details, start: start.document())],
)
async def test_losing_what_is_foreign_is_found(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    await _foreign_story()
    monkeypatch.setattr(reconciler.adapters.serve_put, name, value)
    with pytest.raises(AssertionError, match=r"^I7"):
        await _foreign_story()


async def _departure() -> None:
    """A service leaves Git though nobody switched pruning on."""
    teller = Teller(replace(CANARY, shapes=(THREE, THREE)))
    teller.settings = ClusterSettings()
    await teller.sim.start()
    teller.push()
    await teller.sim.run(20)
    del teller.versions["beta"]
    teller.push()
    await teller.sim.run(60)


async def test_removing_unasked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    await _departure()
    monkeypatch.setattr(policies.membership, "_prune_veto", lambda desired, services, gone: None)
    with pytest.raises(AssertionError, match=r"^I7"):
        await _departure()
