"""What real Git adds to the contract in tests/contract/test_source.py."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.errors import Stalled
from tests.origin import Origin, forget, git
from tests.watched import Watched, names, spec


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


# -- local repositories ----------------------------------------------------------------------------


async def test_a_local_commit_is_seen_within_a_second(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"chat.yaml": spec("chat")})
    watched = Watched(origin.folder, tmp_path / "state")
    before = (await watched.source.read()).outlook
    delays = []
    for number in range(20):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(watched.source.changed(before))
            await asyncio.sleep(0)
            sha = await asyncio.to_thread(origin.commit, {"chat.yaml": spec("chat") + f"# {number}\n"})
            committed = time.monotonic()
            async with asyncio.timeout(5):
                before = await waiting
            delays.append(time.monotonic() - committed)
        reading = await watched.source.read()
        assert reading.desired is not None
        assert reading.desired.commit.sha == sha
    assert sorted(delays)[18] < 1.0, delays


@pytest.mark.parametrize("layout", ["linked", "bare", "packed", "gitfile"])
async def test_every_layout_of_a_local_repository_is_watched(origin: Origin, tmp_path: Path, layout: str) -> None:
    origin.commit({"a.yaml": spec("a")})
    folder = origin.folder
    if layout == "linked":
        folder = tmp_path / "linked"
        git(origin.folder, "worktree", "add", "--quiet", "-b", "other", str(folder))
    if layout == "bare":
        folder = tmp_path / "bare"
        git(tmp_path, "clone", "--quiet", "--bare", str(origin.folder), "bare")
        git(origin.folder, "remote", "add", "bare", str(folder))
    if layout == "packed":
        git(origin.folder, "pack-refs", "--all")
    if layout == "gitfile":
        git(origin.folder, "init", "--quiet", f"--separate-git-dir={tmp_path / 'elsewhere'}")
    watched = Watched(folder, tmp_path / "state")
    assert await watched.names() == ["a"]
    sha = origin.commit({"b.yaml": spec("b")})
    if layout == "bare":
        git(origin.folder, "push", "--quiet", "bare", "main")
    assert names(await watched.see(sha)) == ["b"]
    if layout == "packed":
        git(origin.folder, "pack-refs", "--all")
        assert (await watched.source.read()).problem == ""


@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_commits_are_seen_without_any_notification(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    async def exhausted(*_: object, **__: object) -> AsyncGenerator[None, None]:
        raise error("too many open files")
        yield

    monkeypatch.setattr("reconciler.adapters.git_refs.awatch", exhausted)
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    before = (await watched.source.read()).outlook
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(watched.source.changed(before))
        await asyncio.sleep(0)
        origin.commit({"b.yaml": spec("b")})
        async with asyncio.timeout(5):
            await waiting
    assert await watched.names() == ["b"]


async def test_a_branch_in_a_new_folder_of_refs_is_seen(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state", branch="release/1/next")
    assert "no branch 'release/1/next'" in (await watched.source.read()).problem
    git(origin.folder, "switch", "--quiet", "-c", "release/1/next")
    assert names(await watched.see(origin.commit({"b.yaml": spec("b")}))) == ["b"]


async def test_a_deleted_branch_holds_and_its_return_is_seen(origin: Origin, tmp_path: Path) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    before = (await watched.source.read()).outlook
    git(origin.folder, "switch", "--quiet", "-c", "other")
    git(origin.folder, "branch", "-D", "main")
    async with asyncio.timeout(5):
        await watched.source.changed(before)
    reading = await watched.source.read()
    assert names(reading) == ["a"]
    assert "no branch 'main'" in reading.problem
    assert sha[:12] in reading.problem
    git(origin.folder, "switch", "--quiet", "-c", "main")
    assert (await watched.see(origin.commit({"b.yaml": spec("b")}))).problem == ""


async def test_a_repository_that_is_made_anew_is_read_anew(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    await watched.source.read()
    origin.folder.rename(tmp_path / "old")
    again = Origin(origin.folder)
    assert names(await watched.see(again.commit({"b.yaml": spec("b")}))) == ["b"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "not a Git repository"),
        (lambda folder: git(folder.parent, "init", "--quiet", "nothing"), "no branch 'main'"),
    ],
)
async def test_what_is_no_repository_is_named(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "nothing")
    reading = await Watched(tmp_path / "nothing", tmp_path / "state").source.read()
    assert reading.desired is None
    assert said in reading.problem
    assert str(tmp_path / "nothing") in reading.problem


async def test_variables_of_another_repository_do_not_disturb(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    other = Origin(tmp_path / "other")
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(variable, str(other.folder / ".git"))
    reading = await Watched(origin.folder, tmp_path / "state").source.read()
    assert reading.desired is not None, reading.problem
    assert reading.desired.commit.sha == sha


# -- what is read of a commit ----------------------------------------------------------------------


async def test_only_specs_below_the_path_are_read_and_dot_folders_never(origin: Origin, tmp_path: Path) -> None:
    origin.commit(
        {
            "a.yaml": spec("a"),
            "prod/b.yml": spec("b"),
            "prod/deep/c.yaml": spec("c"),
            "prod/.hidden/d.yaml": spec("d"),
            "prod/.e.yaml": spec("e"),
            "prod/notes.txt": spec("f"),
            "production/g.yaml": spec("g"),
            ".deploy/h.yaml": spec("h"),
            "pr*d/i.yaml": spec("i"),
        }
    )
    found = {
        path: sorted(await Watched(origin.folder, tmp_path / "s", path=path).names())
        for path in ("", "./prod/", ".deploy", "pr*d")
    }
    assert found == {
        "": ["a", "b", "c", "e", "g", "i"],
        "./prod/": ["b", "c", "e"],
        ".deploy": ["h"],
        "pr*d": ["i"],
    }


async def test_a_path_that_is_not_there_is_a_problem_that_a_commit_mends(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state", path="prod")
    reading = await watched.source.read()
    assert reading.desired is None
    assert "no folder 'prod'" in reading.problem
    assert names(await watched.see(origin.commit({"prod/b.yaml": spec("b")}))) == ["b"]


async def test_no_file_hides_another_by_a_name_that_cannot_be_printed(origin: Origin, tmp_path: Path) -> None:
    """A service whose file is not read has left the repository, and may be removed."""
    for number, name in enumerate((b"\xff.yaml", b"\xfe.yaml", b"a\n.yaml", b"a\r.yaml", b"\xef\xbf\xbd.yaml")):
        (origin.folder / os.fsdecode(name)).write_text(spec(f"s{number}"))
    origin.commit()
    reading = await Watched(origin.folder, tmp_path / "state").source.read()
    assert names(reading) == ["s0", "s1", "s2", "s3", "s4"]
    assert reading.desired is not None
    assert all(service.source.path.isprintable() for service in reading.desired.services)


@pytest.mark.parametrize("path", ["..", "../x", "a/../../b"])
def test_a_path_out_of_the_repository_is_refused(origin: Origin, tmp_path: Path, path: str) -> None:
    with pytest.raises(Stalled, match="leaves the repository"):
        Watched(origin.folder, tmp_path / "state", path=path)


@pytest.mark.parametrize(("path", "said"), [("", "is empty"), ("prod", "no folder 'prod'")])
async def test_an_emptied_repository_deletes_nothing_also_after_a_restart(
    origin: Origin, tmp_path: Path, path: str, said: str
) -> None:
    good = origin.commit({"prod/a.yaml": spec("a"), **({"b": ""} if path else {})})
    watched = Watched(origin.folder, tmp_path / "state", path=path)
    await watched.source.read()
    origin.commit({"b": ""} if path else {})
    for source in (watched.source, Watched(origin.folder, tmp_path / "state", path=path).source):
        reading = await source.read()
        assert names(reading) == ["a"]
        assert said in reading.problem
        assert f"holding to commit {good[:12]}" in reading.problem


async def test_removing_the_last_service_is_a_wish_not_an_accident(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    await watched.source.read()
    reading = await watched.see(origin.commit({"README.md": "Nothing here yet."}))
    assert (names(reading), reading.problem) == ([], "")


# -- keeping what was read -------------------------------------------------------------------------


async def test_a_restart_without_the_repository_serves_the_last_commit_and_its_age(
    origin: Origin, tmp_path: Path
) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    seen = (await Watched(origin.folder, tmp_path / "state").source.read()).read_at
    origin.folder.rename(tmp_path / "away")
    restarted = Watched(origin.folder, tmp_path / "state").source
    reading = await restarted.read()
    assert names(reading) == ["a"]
    assert reading.read_at == seen
    assert "does not exist" in reading.problem
    assert f"holding to commit {sha[:12]}, last seen 0 s ago" in reading.problem
    age = restarted.age()
    assert age is not None
    assert timedelta(0) < age < timedelta(minutes=1)


async def test_another_repository_in_the_settings_never_serves_the_old_ones_commit(
    origin: Origin, tmp_path: Path
) -> None:
    origin.commit({"a.yaml": spec("a")})
    await Watched(origin.folder, tmp_path / "state").source.read()
    for other in ({"url": tmp_path / "gone"}, {"url": origin.folder, "branch": "gone"}):
        assert (await Watched(state=tmp_path / "state", **other).source.read()).desired is None  # type: ignore[arg-type]


async def test_locks_of_a_killed_daemon_do_not_block_the_next(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    await Watched(origin.folder, tmp_path / "state").source.read()
    mirror = tmp_path / "state" / "git"
    for ref in (mirror / "refs").rglob("*"):
        if ref.is_file():
            ref.with_name(f"{ref.name}.lock").touch()
    (mirror / "packed-refs.lock").touch()
    (mirror / "config.lock").touch()
    sha = origin.commit({"b.yaml": spec("b")})
    assert (await Watched(origin.folder, tmp_path / "state").see(sha)).problem == ""


async def test_a_daemon_killed_between_fetching_and_accepting_goes_on(origin: Origin, tmp_path: Path) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    await Watched(origin.folder, tmp_path / "state").source.read()
    for accepted in (tmp_path / "state" / "git" / "refs" / "heliostat" / "accepted").iterdir():
        accepted.rename(accepted.with_name(f"{accepted.name}.lock"))
    reading = await Watched(origin.folder, tmp_path / "state").source.read()
    assert reading.desired is not None, reading.problem
    assert (reading.desired.commit.sha, reading.problem) == (sha, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
async def test_a_repository_of_another_user_says_how_to_trust_it(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.commit({"a.yaml": spec("a")})
    for path in (origin.folder, *origin.folder.rglob("*")):
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    reading = await Watched(origin.folder, tmp_path / "state").source.read()
    assert reading.desired is None
    assert "safe.directory" in reading.problem


def lose_objects(mirror: Path) -> None:
    for thing in (mirror / "objects").rglob("*"):
        if thing.is_file():
            thing.unlink()


def lose_blobs(mirror: Path) -> None:
    packs = [*(mirror / "objects" / "pack").glob("*.pack")]
    for pack in packs:
        moved = pack.rename(mirror / pack.name)
        pack.with_suffix(".idx").unlink()
        git(mirror, "unpack-objects", "-q", stdin=moved.read_bytes())
    for thing in (mirror / "objects").rglob("*"):
        if thing.is_file() and thing.parent.name != "pack":
            kind = git(mirror, "cat-file", "-t", thing.parent.name + thing.name)
            if kind == "blob":
                thing.unlink()


def empty_head(mirror: Path) -> None:
    (mirror / "HEAD").write_text("")


@pytest.mark.parametrize("damage", [lose_objects, lose_blobs, empty_head])
async def test_a_damaged_mirror_is_mended_from_the_repository(
    origin: Origin, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    await Watched(origin.folder, tmp_path / "state").source.read()
    await asyncio.to_thread(damage, tmp_path / "state" / "git")
    restarted = Watched(origin.folder, tmp_path / "state")
    assert names(await restarted.see(sha)) == ["a"]
    assert (await restarted.source.read()).problem == ""
    assert names(await restarted.see(origin.commit({"b.yaml": spec("b")}))) == ["b"]


async def test_hooks_are_never_run(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    await watched.source.read()
    hook = tmp_path / "state" / "git" / "hooks" / "reference-transaction"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    await watched.see(origin.commit({"b.yaml": spec("b")}))
    assert not (tmp_path / "ran").exists()


async def test_the_mirror_stays_small_over_many_commits(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.adapters.git_mirror.FETCHES_PER_CLEANING", 2)
    kept = origin.commit({"a.yaml": spec("a")})
    watched = Watched(origin.folder, tmp_path / "state")
    await watched.source.read()
    await watched.source.keep(frozenset({kept}))
    for number in range(4):
        reading = await watched.see(origin.commit({"a.yaml": spec("a"), "b": str(number)}))
        assert reading.problem == ""
    assert not [kind for kind, _ in watched.requests if kind == "clean"]
    forget(tmp_path / "state" / "git")
    git(tmp_path / "state" / "git", "cat-file", "-e", f"{kept}:a.yaml")


# -- what a wrong file does not open ----------------------------------------------------------------

POLICY = """apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec: {budget: {maxServicesMoving: COUNT}}
"""


async def test_a_wrong_policy_leaves_the_last_one_in_force_over_restarts(origin: Origin, tmp_path: Path) -> None:
    async def moving(sha: str) -> int:
        reading = await watched.see(sha)
        assert reading.desired is not None
        return reading.desired.settings.max_services_moving

    def push(policy: str) -> str:
        return origin.commit({"chat.yaml": spec("chat"), "policy.yaml": policy})

    watched = Watched(origin.folder, tmp_path / "state")
    assert await moving(push("apiVersion: heliostat.dev/v1alpha1\nkind: [")) == 5, "nothing better is known"
    assert await moving(push(POLICY.replace("COUNT", "2"))) == 2
    assert await moving(push(POLICY.replace("COUNT", "many"))) == 2
    watched = Watched(origin.folder, tmp_path / "state")
    still = push(POLICY.replace("COUNT", "lots"))
    assert await moving(still) == 2
    origin.forget()
    watched = Watched(origin.folder, tmp_path / "state")
    assert await moving(still) == 2
    assert await moving(push(POLICY.replace("COUNT", "3"))) == 3
    watched = Watched(origin.folder, tmp_path / "state")
    assert await moving(push(POLICY.replace("COUNT", "x"))) == 3
    assert await moving(origin.commit({"chat.yaml": spec("chat")})) == 5, "it was taken out"
