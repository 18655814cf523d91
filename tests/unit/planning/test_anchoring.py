"""Unchanged code keeps the commit that it was read from, as long as that can be read."""

from __future__ import annotations

from dataclasses import replace

from reconciler.planning.anchoring import anchored
from specs.desired import Desired, DesiredService, PackageRef
from specs.memory import ServiceMemory
from tests.builders import desired, service

PLACES = ("working_dir", "py_modules.0")


def packaged(commit: str, *trees: str, path: str = "chat", name: str = "chat") -> DesiredService:
    plain = service(name)
    packages = tuple(
        PackageRef(where=where, commit=commit, path=path, tree=tree) for where, tree in zip(PLACES, trees, strict=False)
    )
    return replace(plain, revision=replace(plain.revision, packages=packages))


def commits(found: Desired) -> list[str]:
    return [package.commit for package in found.services[0].revision.packages]


def remembered(wanted: DesiredService) -> dict[str, ServiceMemory]:
    return {wanted.name: ServiceMemory(name=wanted.name, wanted=wanted)}


def test_the_same_folders_are_the_very_spec_that_is_remembered() -> None:
    known = packaged("old", "t1", "t2")
    found = anchored(desired(packaged("new", "t1", "t2")), remembered(known), frozenset({"old", "new"}))
    assert found.services == (known,)


def test_only_what_changed_is_named_with_the_new_commit() -> None:
    known = remembered(packaged("old", "t1", "t2"))
    assert commits(anchored(desired(packaged("new", "t1", "t9")), known, frozenset({"old"}))) == ["old", "new"]
    moved = packaged("new", "t1", "t2", path="elsewhere")
    assert commits(anchored(desired(moved), known, frozenset({"old"}))) == ["new", "new"]


def test_a_commit_that_is_not_kept_is_let_go() -> None:
    known = remembered(packaged("old", "t1"))
    assert commits(anchored(desired(packaged("new", "t1")), known, frozenset({"new"}))) == ["new"]


def test_who_is_new_is_named_with_the_new_commit() -> None:
    known = remembered(packaged("old", "t1", name="other"))
    assert commits(anchored(desired(packaged("new", "t1")), known, frozenset({"old"}))) == ["new"]
