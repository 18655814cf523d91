"""From Memory and what was seen to effects: no more than differs, in the order that is safe."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.planning.compile import LONGEST_BUILD, Compiled, compile_effects
from reconciler.planning.plan import Plan
from reconciler.planning.routing import route_table
from specs.canonical import canonical_json
from specs.decisions import Decision, SetCapacity
from specs.desired import ClusterSettings, PackageRef
from specs.effects import PutServeConfig, SaveMemory, ScaleDeployment, SetRoutes, UploadPackage
from specs.observed import CellStatus
from specs.routes import FULL, RouteTable
from specs.world import World
from tests.builders import NOW, cell, desired, seconds, service, world

ROUTED = object()


def compiled(made: World, *decisions: Decision, routed: Any = ROUTED, before: Any = None) -> Compiled:
    plan = Plan(world=made, decisions={"chat": decisions}, memory=made.memory, events=(), history=())
    table: RouteTable | None = route_table(made.memory) if routed is ROUTED else routed
    return compile_effects(plan, before or made.memory, table)


def steady(**options: Any) -> World:
    return world(service(), cell("v1", **{"ready": 3, "weight": FULL, **options}), stable="v1")


def said(made: World) -> SetCapacity:
    return SetCapacity(service="chat", cell=made.memory.services["chat"].cells[0].key, deployment="Echo", count=3)


def test_a_settled_world_needs_nothing() -> None:
    assert compiled(steady()).effects == ()


def test_memory_is_saved_before_everything_else() -> None:
    made = steady(ready=2, counts={"Echo": 3}, weight=0)
    before = replace(made.memory, services={})
    effects = compiled(made, said(made), routed=None, before=before).effects
    assert [type(effect) for effect in effects] == [SaveMemory, SetRoutes, ScaleDeployment]


def test_a_blind_look_only_saves() -> None:
    made = steady(ready=2, counts={"Echo": 3})
    made = replace(made, observed=replace(made.observed, complete=False))
    assert compiled(made, said(made), routed=None, before=replace(made.memory, services={})).effects[1:] == ()


@pytest.mark.parametrize("weight", [None, 0, 9000])
def test_routes_are_set_when_the_gateway_shows_other_ones(weight: int | None) -> None:
    made = steady(weight=weight)
    memory = made.memory.services["chat"]
    services = {"chat": replace(memory, weights={"chat.v1.-.-.0": FULL})}
    made = replace(made, memory=replace(made.memory, services=services))
    assert [type(effect) for effect in compiled(made).effects] == [SetRoutes]


def test_routes_are_set_until_the_gateway_took_them() -> None:
    """A public route is not to be seen in lanes: what counts is what the gateway took last."""
    moved = world(service(route="/new"), cell("v1", ready=3, weight=FULL), stable="v1")
    (effect,) = compiled(moved, routed=route_table(steady().memory)).effects
    assert isinstance(effect, SetRoutes)
    assert effect.table.services[0].route == "/new"


def test_only_what_this_look_decided_is_scaled() -> None:
    made = steady(ready=2, counts={"Echo": 3})
    assert compiled(made).effects == ()
    (effect,) = compiled(made, said(made)).effects
    assert effect == ScaleDeployment(service="chat", application="chat.v1.-.-.0", deployment="Echo", target=3)


def test_what_is_being_deleted_is_not_scaled_but_put_back_with_its_counts() -> None:
    made = steady(
        ready=0, stopping=3, target=0, status=CellStatus.DELETING, counts={"Echo": 3}, config=_listing("Echo")
    )
    (effect,) = compiled(made, said(made)).effects
    assert isinstance(effect, PutServeConfig)
    assert json.loads(effect.applications[0].config)["deployments"] == [{"name": "Echo", "num_replicas": 3}]


def _listing(*deployments: str) -> str:
    return canonical_json(
        {"name": "chat.v1.-.-.0", "import_path": "app:build", "deployments": [{"name": name} for name in deployments]}
    )


def test_numbers_that_serve_gives_back_as_floats_are_the_same() -> None:
    ours = canonical_json({"name": "x", "deployments": [{"name": "Echo", "graceful_shutdown_timeout_s": 60}]})
    theirs = canonical_json({"name": "x", "deployments": [{"name": "Echo", "graceful_shutdown_timeout_s": 60.0}]})
    made = steady(config=ours)
    seen = replace(made.observed.cells[0], config=theirs)
    assert compiled(replace(made, observed=replace(made.observed, cells=(seen,)))).effects == ()


def building(seconds_long: float, **options: Any) -> World:
    """Return a world in which somebody else's application is being built, and a cell of ours is to be created."""
    made = world(service(), cell("v1", seen=False, **options), candidate="v1")
    _, other, _ = cell("other", building=True)
    assert other is not None
    theirs = replace(other, name="theirs", last_deployed_at=NOW - timedelta(days=1))  # Ray's clock may be wrong.
    since = {"theirs": NOW - seconds(seconds_long)}
    return replace(made, observed=replace(made.observed, cells=(theirs,), building_since=since))


def test_a_build_in_progress_is_not_cut_and_the_wait_is_explained() -> None:
    found = compiled(building(5))
    assert not any(isinstance(effect, PutServeConfig) for effect in found.effects)
    assert "theirs" in found.waiting


def test_a_build_that_never_ends_is_not_waited_for() -> None:
    (effect,) = compiled(building(LONGEST_BUILD.total_seconds())).effects
    assert isinstance(effect, PutServeConfig)
    assert effect.may_cut_builds


def test_what_carried_requests_is_put_back_though_something_is_built() -> None:
    lost = {"was_ready": True, "was_seen": True, "weight": FULL, "restored_at": NOW}
    (effect,) = compiled(building(5, restores=1, **lost)).effects
    assert isinstance(effect, PutServeConfig)
    assert effect.may_cut_builds
    assert compiled(building(5, restores=2, **lost)).waiting, "who is taken away again does not cut builds again"


def test_an_entry_that_serve_would_refuse_is_left_out_and_told() -> None:
    config = canonical_json({"name": "chat.v1.-.-.0", "import_path": "nonsense"})
    made = world(service(), cell("v1", seen=False, weight=None, config=config), candidate="v1")
    found = compiled(made)
    assert not any(isinstance(effect, PutServeConfig) for effect in found.effects)
    assert "import_path" in found.invalid["chat"]


def test_a_build_that_our_put_cuts_starts_its_deadline_anew() -> None:
    made = world(
        service(version="v2"),
        cell("v1", ready=3, weight=FULL),
        cell("v2", building=True, building_since=NOW - seconds(50)),
        cell("v3", is_retired=True, is_urgent=True),
        stable="v1",
        candidate="v2",
    )
    found = compiled(made)
    assert found.memory.services["chat"].cells_of("v2")[0].building_since == NOW
    assert any(isinstance(effect, SaveMemory) for effect in found.effects)


def test_a_package_is_looked_for_before_each_growth() -> None:
    package = PackageRef(where="working_dir", commit="c", path="", tree="abc")
    made = steady(ready=2, counts={"Echo": 3})
    memory = made.memory.services["chat"]
    packaged = tuple(replace(record, packages=(package,)) for record in memory.revisions)
    made = replace(made, memory=replace(made.memory, services={"chat": replace(memory, revisions=packaged)}))
    assert [type(effect) for effect in compiled(made, said(made)).effects] == [UploadPackage, ScaleDeployment]


def test_with_self_heal_off_drift_is_left_alone() -> None:
    made = steady(ready=2, counts={"Echo": 3})
    left = replace(made, desired=desired(service(), settings=ClusterSettings(self_heal=False)))
    assert compiled(left, said(left)).effects == ()
    gone = replace(left, observed=replace(left.observed, cells=()))
    assert compiled(gone).effects == ()
