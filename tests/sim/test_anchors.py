"""The commits that code was read from: unchanged code is not saved anew, and is there when it is needed again."""

from __future__ import annotations

import pytest

from reconciler.errors import Retry
from tests.contract import test_source
from tests.sim.world import Simulation


def spec(greeting: str = "hello") -> bytes:
    return test_source.spec(greeting=greeting).replace(b"name: Chat", b"name: Echo")


FILES = test_source.FILES | {"chat/chat.yaml": spec()}


async def pushed(sim: Simulation, number: int) -> str:
    """Commit something that concerns no service."""
    sha = sim.source.push_files(FILES | {"README.md": b"%d\n" % number}).sha
    await sim.run(3)
    assert sim.daemon is not None
    assert sim.daemon.status is not None
    assert sha in (sim.daemon.status.commit or "")
    return sha


async def served_again_without_head(sim: Simulation) -> None:
    """Ray's head is made anew and has lost everything: the code has to be packaged again."""
    uploads = len(sim.packages.uploads)
    sim.lose_head()
    await sim.until(lambda: len(sim.packages.uploads) > uploads, what="uploaded again")
    await sim.until(lambda: sim.status().health == "Healthy", what="healthy again")


async def test_a_commit_that_changes_no_service_saves_none() -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push_files(FILES)
    await sim.settle()
    saves = sim.store.saves
    for number in range(3):
        await pushed(sim, number)
    assert sim.store.saves == saves


async def test_not_after_a_restart_either() -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push_files(FILES)
    await sim.settle()
    saves = sim.store.saves
    sim.kill()
    sim.source.push_files(FILES | {"README.md": b"Another.\n"})
    await sim.run(5)
    assert sim.daemon is not None
    assert sim.store.saves == saves


async def test_code_of_a_commit_that_the_branch_lost_is_uploaded_again() -> None:
    """The older commit is the one that is kept, over any number of newer and rewritten ones."""
    sim = Simulation()
    await sim.start()
    first = sim.source.push_files(FILES).sha
    await sim.settle()
    for number in range(3):
        await pushed(sim, number)
        sim.source.forget_rewritten()
    assert {package.commit for package in sim.memory().wanted.revision.packages} == {first}
    await served_again_without_head(sim)


async def test_a_commit_that_is_lost_after_all_gives_way_to_the_newest() -> None:
    """As after the clone was damaged, and the host has collected its garbage: the same code is in a newer commit."""
    sim = Simulation()
    await sim.start()
    sim.source.push_files(FILES)
    await sim.settle()
    newest = sim.source.push_files(FILES | {"README.md": b"Rewritten.\n"}).sha
    sim.source.lose_kept()
    await sim.run(3)
    assert {package.commit for package in sim.memory().wanted.revision.packages} == {newest}
    await served_again_without_head(sim)


async def test_while_nothing_can_be_kept_code_is_named_with_the_newest_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push_files(FILES)
    await sim.settle()
    sim.kill()

    async def full(_commits: frozenset[str]) -> frozenset[str]:
        raise Retry("the disk is full")

    monkeypatch.setattr(sim.source, "keep", full)
    newest = sim.source.push_files(FILES | {"README.md": b"Another.\n"}).sha
    await sim.run(5)
    assert {package.commit for package in sim.memory().wanted.revision.packages} == {newest}


async def test_changed_code_is_named_with_its_own_commit() -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push_files(FILES)
    await sim.settle()
    second = sim.source.push_files(FILES | {"chat/app.py": b"def build(args): return 2\n"}).sha
    await sim.settle()
    assert {package.commit for package in sim.memory().wanted.revision.packages} == {second}
    third = sim.source.push_files(FILES | {"chat/chat.yaml": spec(greeting="hi"), "chat/app.py": b"x = 3\n"}).sha
    await sim.settle()
    assert {package.commit for package in sim.memory().wanted.revision.packages} == {third}
