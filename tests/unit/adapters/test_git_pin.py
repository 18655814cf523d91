"""Applying a plan: another commit than the branch's is followed, until the branch contains it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.errors import Stalled
from reconciler.ports import Reading
from tests.contract.test_source import spec
from tests.origin import Origin, git


class Followed:
    """A repository, and the source that a daemon has of it."""

    def __init__(self, folder: Path, *, by_url: bool) -> None:
        self.origin = Origin(folder / "origin")
        self.first = self.commit("one")
        self.settings = GitSettings(
            url=f"file://{self.origin.folder}" if by_url else str(self.origin.folder), state=folder / "state"
        )
        self.restart()

    def restart(self) -> None:
        self.source = GitSource(self.settings, SystemClock())

    def commit(self, greeting: str, *, branch: str = "main", start: str = "") -> str:
        folder = self.origin.folder
        if start:
            git(folder, "checkout", "--quiet", "-B", branch, start)
        sha = self.origin.commit({"chat.yaml": spec(greeting=greeting), "app.py": "x"}, greeting)
        git(folder, "checkout", "--quiet", "main")
        return sha

    async def look(self) -> Reading:
        await self.source._refresh()
        return await self.source.read()

    async def live(self) -> str:
        reading = await self.look()
        assert reading.desired is not None
        return reading.desired.commit.sha


@pytest.fixture(params=["local", "url"])
def followed(tmp_path: Path, request: pytest.FixtureRequest) -> Followed:
    return Followed(tmp_path, by_url=request.param == "url")


async def test_a_pinned_commit_is_followed_over_restarts_and_newer_commits(followed: Followed) -> None:
    assert await followed.live() == followed.first
    topic = followed.commit("topic", branch="topic", start="main")
    await followed.source.pin(topic)
    assert await followed.live() == topic
    newer = followed.commit("newer")
    reading = await followed.look()
    assert reading.desired is not None
    assert reading.desired.commit.sha == topic
    (note,) = reading.notes
    assert (note.reason.value, note.commit, note.is_refused) == ("Pinned", newer, True)
    followed.restart()
    assert await followed.live() == topic


async def test_a_branch_that_contains_it_ends_the_pin(followed: Followed) -> None:
    await followed.live()
    topic = followed.commit("topic", branch="topic", start="main")
    await followed.source.pin(topic)
    git(followed.origin.folder, "merge", "--quiet", "--ff-only", "topic")
    assert await followed.live() == topic
    newest = followed.commit("newest")
    reading = await followed.look()
    assert reading.desired is not None
    assert reading.desired.commit.sha == newest
    assert reading.notes == ()


async def test_a_release_goes_back_to_the_branch_wherever_that_is(followed: Followed) -> None:
    await followed.live()
    topic = followed.commit("topic", branch="topic", start="main")
    await followed.source.pin(topic)
    assert await followed.live() == topic
    assert await followed.source.release() == topic
    reading = await followed.look()
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.notes) == (followed.first, ())
    assert await followed.source.release() is None
    await followed.source.pin(topic)
    newer = followed.commit("newer")
    assert await followed.source.release() == topic
    assert await followed.live() == newer


async def test_what_may_not_be_pinned_changes_nothing(followed: Followed) -> None:
    await followed.live()
    aside = followed.commit("aside", branch="aside", start="main")
    newer = followed.commit("newer")
    assert await followed.live() == newer
    with pytest.raises(Stalled, match="does not come after"):
        await followed.source.pin(aside)
    with pytest.raises(Stalled, match="has no commit"):
        await followed.source.pin("f" * 40)
    git(followed.origin.folder, "checkout", "--quiet", "-B", "bad", "main")
    bad = followed.origin.commit({"chat.yaml": spec().replace(b"args", b"orgs"), "app.py": "x"})
    git(followed.origin.folder, "checkout", "--quiet", "main")
    with pytest.raises(Stalled, match="has mistakes"):
        await followed.source.pin(bad)
    assert await followed.live() == newer


async def test_a_commit_of_the_branch_itself_needs_no_pin(followed: Followed) -> None:
    await followed.live()
    newer = followed.commit("newer")
    await followed.source.pin(newer)
    assert await followed.live() == newer
    assert await followed.source.release() is None
