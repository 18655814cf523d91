"""What every Source promises, tried on the one in memory and on real Git: local, bare, and over a URL."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.errors import Stalled
from reconciler.ports import Reading, Source
from specs.desired import PackageRef
from tests.origin import Origin, forget, git
from tests.sim.fake_source import FakeSource

SOON = 5.0

SPEC = """\
apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: {name}}}
spec:
  application:
    import_path: app:build
    args: {{greeting: {greeting}}}
    runtime_env: {{working_dir: .}}
    deployments:
      - {{name: Chat, num_replicas: 1}}
"""


def spec(name: str = "chat", greeting: str = "hello") -> bytes:
    return SPEC.format(name=name, greeting=greeting).encode()


FILES = {"chat/chat.yaml": spec(), "chat/app.py": b"def build(args): ...\n", "README.md": b"Services.\n"}


class Repository(Protocol):
    """A source and the hands that change what it reads."""

    source: Source

    def push(self, files: Mapping[str, bytes], *, rewrite: bool = False) -> str: ...
    def forget(self) -> None: ...
    def fail(self) -> None: ...
    def mend(self) -> None: ...


class InMemory:
    def __init__(self, _folder: Path) -> None:
        self.source = self._fake = FakeSource(SystemClock())

    def push(self, files: Mapping[str, bytes], *, rewrite: bool = False) -> str:
        return self._fake.push_files(files).sha

    def forget(self) -> None:
        self._fake.forget_rewritten()

    def fail(self) -> None:
        self._fake.fail()

    def mend(self) -> None:
        self._fake.mend()


class RealGit:
    """A person's work tree pushes to what the daemon reads."""

    def __init__(self, folder: Path, *, url: str, interval: timedelta = timedelta(seconds=30)) -> None:
        self._person = Origin(folder / "person")
        self._read = folder / "read"
        self._mirror = folder / "state" / "git"
        self._pushed = False
        settings = GitSettings(url=url or str(self._read), state=folder / "state", interval=interval)
        self.source: Source = GitSource(settings, SystemClock())

    def push(self, files: Mapping[str, bytes], *, rewrite: bool = False) -> str:
        sha = self._person.commit(files, amend=rewrite)
        git(self._person.folder, "push", "--quiet", "--force", str(self._read), "main")
        return sha

    def forget(self) -> None:
        for repository in (self._person.folder, self._read, self._mirror):
            forget(repository)

    def fail(self) -> None:
        self._read.rename(self._read.with_name("away"))

    def mend(self) -> None:
        self._read.with_name("away").rename(self._read)


def bare(folder: Path) -> RealGit:
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "read")
    return RealGit(folder, url="")


def url(folder: Path) -> RealGit:
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "read")
    return RealGit(folder, url=f"file://{folder / 'read'}", interval=timedelta(milliseconds=200))


class WorkTree(RealGit):
    """The daemon reads the very work tree that the person commits in."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, url=str(folder / "person"))
        self._read = self._person.folder

    def push(self, files: Mapping[str, bytes], *, rewrite: bool = False) -> str:
        return self._person.commit(files, amend=rewrite)


MAKERS: Mapping[str, Callable[[Path], Repository]] = {
    "memory": InMemory,
    "worktree": WorkTree,
    "bare": bare,
    "url": url,
}


@pytest.fixture(params=list(MAKERS))
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return MAKERS[request.param](tmp_path)


async def soon(awaited: Awaitable[None]) -> None:
    async with asyncio.timeout(SOON):
        await awaited


async def read_until(source: Source, wanted: Callable[[Reading], bool]) -> Reading:
    async with asyncio.timeout(SOON):
        while not wanted(reading := await source.read()):
            await source.changed(reading.outlook)
        return reading


def at(sha: str) -> Callable[[Reading], bool]:
    return lambda reading: reading.desired is not None and reading.desired.commit.sha == sha


async def test_without_a_commit_there_is_a_problem_and_nothing_desired(repository: Repository) -> None:
    reading = await repository.source.read()
    assert (reading.desired, reading.read_at) == (None, None)
    assert "main" in reading.problem


async def test_the_first_commit_is_seen(repository: Repository) -> None:
    before = (await repository.source.read()).outlook
    sha = repository.push(FILES)
    await soon(repository.source.changed(before))
    reading = await read_until(repository.source, at(sha))
    assert reading.problem == ""


async def test_a_reading_is_the_newest_commit(repository: Repository) -> None:
    before = SystemClock().now()
    sha = repository.push(FILES)
    reading = await repository.source.read()
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.desired.commit.author) == (sha, "Ada")
    assert [service.name for service in reading.desired.services] == ["chat"]
    assert (reading.desired.errors, reading.problem) == ((), "")
    assert reading.read_at is not None
    assert before <= reading.read_at <= SystemClock().now()


async def test_a_push_wakes_whoever_waits(repository: Repository) -> None:
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(soon(repository.source.changed(before)))
        await asyncio.sleep(0)
        sha = repository.push(FILES | {"chat/chat.yaml": spec(greeting="hi")})
        await waiting
    assert at(sha)(await repository.source.read())


async def test_a_push_between_reading_and_waiting_is_not_lost(repository: Repository) -> None:
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    sha = repository.push(FILES | {"second.yaml": spec("second")})
    await soon(repository.source.changed(before))
    assert at(sha)(await repository.source.read())


async def test_a_change_ends_one_wait_whoever_reads_it_meanwhile(repository: Repository) -> None:
    """The daemon waits and reads in tasks of their own."""
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    sha = repository.push(FILES | {"second.yaml": spec("second")})
    seen = (await read_until(repository.source, at(sha))).outlook
    async with asyncio.timeout(SOON):
        assert await repository.source.changed(before) == seen
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await repository.source.changed(seen)


async def test_nothing_new_wakes_nobody(repository: Repository) -> None:
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await repository.source.changed(before)


async def test_a_wait_that_was_given_up_hides_nothing(repository: Repository) -> None:
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await repository.source.changed(before)
    sha = repository.push(FILES | {"second.yaml": spec("second")})
    await soon(repository.source.changed(before))
    assert at(sha)(await repository.source.read())


async def test_trouble_keeps_the_last_commit_and_says_so_until_it_ends(repository: Repository) -> None:
    sha = repository.push(FILES)
    good = await repository.source.read()
    repository.fail()
    await soon(repository.source.changed(good.outlook))
    bad = await repository.source.read()
    assert at(sha)(bad)
    assert bad.problem
    assert good.read_at is not None
    assert bad.read_at is not None
    assert good.read_at <= bad.read_at
    later = await repository.source.read()
    assert later.read_at == bad.read_at, "the age of the last good reading must grow"
    repository.mend()
    await soon(repository.source.changed(bad.outlook))
    mended = await repository.source.read()
    assert (at(sha)(mended), mended.problem) == (True, "")


async def test_a_commit_made_right_after_trouble_is_seen(repository: Repository) -> None:
    repository.push(FILES)
    before = (await repository.source.read()).outlook
    repository.fail()
    await soon(repository.source.changed(before))
    await repository.source.read()
    repository.mend()
    sha = repository.push(FILES | {"second.yaml": spec("second")})
    await read_until(repository.source, at(sha))


async def test_a_broken_file_is_an_error_of_that_file_alone(repository: Repository) -> None:
    repository.push(FILES | {"broken.yaml": b"apiVersion: heliostat.dev/v1alpha1\nkind: [\n"})
    reading = await repository.source.read()
    assert reading.desired is not None
    assert [service.name for service in reading.desired.services] == ["chat"]
    assert {error.path for error in reading.desired.errors} == {"broken.yaml"}


async def package_of(repository: Repository) -> PackageRef:
    reading = await repository.source.read()
    assert reading.desired is not None
    return reading.desired.services[0].revision.packages[0]


async def test_a_package_holds_the_code_and_not_the_spec(repository: Repository) -> None:
    repository.push(FILES)
    ref = await package_of(repository)
    content = await repository.source.package(ref)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert {name: archive.read(name) for name in archive.namelist()} == {"app.py": FILES["chat/app.py"]}
    assert await repository.source.package(ref) == content


async def test_new_code_is_a_new_revision_and_a_new_count_of_readme_lines_is_not(repository: Repository) -> None:
    ids = []
    for change in ({}, {"README.md": b"More.\n"}, {"chat/app.py": b"def build(args): return 2\n"}):
        sha = repository.push(FILES | change)
        reading = await read_until(repository.source, at(sha))
        assert reading.desired is not None
        ids.append((reading.desired.services[0].revision.id, reading.desired.services[0].revision.packages[0].tree))
    assert ids[0] == ids[1]
    assert ids[1][1] != ids[2][1]


async def test_a_package_has_the_same_name_in_every_kind_of_repository(repository: Repository) -> None:
    repository.push(FILES)
    assert (await package_of(repository)).tree == "53ef93a1add44dab7d9a11e8f7feb6951a544a89"


async def test_kept_commits_outlive_a_rewritten_branch_and_others_do_not(repository: Repository) -> None:
    refs = []
    for greeting in (b"one", b"two", b"three"):
        sha = repository.push(FILES | {"chat/app.py": greeting}, rewrite=bool(refs))
        await read_until(repository.source, at(sha))
        refs.append(await package_of(repository))
        if greeting == b"one":
            await repository.source.keep(frozenset({sha}))
    repository.forget()
    for ref, greeting in ((refs[0], b"one"), (refs[2], b"three")):
        archive = zipfile.ZipFile(io.BytesIO(await repository.source.package(ref)))
        assert archive.read("app.py") == greeting
    with pytest.raises(Stalled):
        await repository.source.package(refs[1])
    await repository.source.keep(frozenset())
    repository.forget()
    with pytest.raises(Stalled):
        await repository.source.package(refs[0])


async def test_keeping_a_commit_that_never_was_names_it_and_keeps_the_others(repository: Repository) -> None:
    sha = repository.push(FILES)
    ref = await package_of(repository)
    assert await repository.source.keep(frozenset({sha, "0" * 40})) == {"0" * 40}
    await read_until(repository.source, at(repository.push(FILES | {"chat/app.py": b"new"}, rewrite=True)))
    repository.forget()
    assert await repository.source.package(ref)


async def test_a_package_that_is_not_what_the_revision_named_stalls(repository: Repository) -> None:
    sha = repository.push(FILES)
    await repository.source.read()
    with pytest.raises(Stalled):
        await repository.source.package(PackageRef(where="working_dir", commit=sha, path="chat", tree="0" * 40))
    with pytest.raises(Stalled):
        await repository.source.package(PackageRef(where="working_dir", commit=sha, path="nowhere", tree="0" * 40))
