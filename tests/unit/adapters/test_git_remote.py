"""Repositories behind a URL: how often they are asked, over what, and what becomes of passwords and patience."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from reconciler.adapters.git import GitSettings, GitSource
from reconciler.errors import Stalled
from reconciler.ports import Outlook
from tests.local_http import listening
from tests.origin import Origin, git
from tests.sim.fake_clock import FakeClock
from tests.watched import Watched, names, spec

ONCE = timedelta(hours=1)
"""An interval that no test lives to see the end of."""

OFTEN = timedelta(milliseconds=100)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


async def test_one_change_is_one_fetch_however_many_services(origin: Origin, tmp_path: Path) -> None:
    origin.commit({f"{number}.yaml": spec(f"s{number}") for number in range(5)})
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", interval=timedelta(milliseconds=100))
    before = (await watched.source.read()).outlook
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await watched.source.changed(before)
    assert watched.requests["query", "ok"] > 2
    assert watched.requests["fetch", "ok"] == 1
    await watched.see(origin.commit({f"{number}.yaml": spec(f"s{number}") + "# new\n" for number in range(5)}))
    assert watched.requests["fetch", "ok"] == 2


async def test_daemons_do_not_ask_their_host_all_at_once(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    clock, asked = FakeClock(), []
    for number in range(12):
        settings = GitSettings(url=f"file://{origin.folder}", state=tmp_path / f"state{number}")
        source = GitSource(settings, clock, lambda kind, outcome: None)
        await source.read()
        asked.append(source._until_query().total_seconds())
    assert all(27 <= seconds <= 33 for seconds in asked), asked
    assert max(asked) - min(asked) > 1, asked


async def test_reading_asks_the_host_nothing_while_somebody_waits_for_changes(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", interval=ONCE)
    for _ in range(3):
        await watched.source.read()
    assert watched.requests == {("query", "ok"): 1, ("fetch", "ok"): 1}


@pytest.mark.parametrize("where", ["file://{}", "{}"])
async def test_who_waits_for_changes_over_and_over_starves_nobody(origin: Origin, tmp_path: Path, where: str) -> None:
    """The daemon waits and reads in tasks of their own: a wait that returned at once, again and again, would be all."""
    shas = [origin.commit({"a.yaml": spec("a")})]
    watched = Watched(where.format(origin.folder), tmp_path / "state", interval=OFTEN)
    returned = 0

    async def watch() -> None:
        nonlocal returned
        outlook = Outlook()
        while True:
            outlook = await watched.source.changed(outlook)
            returned += 1
            if returned > 100:
                return  # a starved test could not even fail

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        for number in range(3):
            async with asyncio.timeout(10):
                while (reading := await watched.source.read()).desired is None or reading.desired.commit.sha != shas[
                    -1
                ]:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.2)
            shas.append(origin.commit({"a.yaml": spec("a") + f"# {number}\n"}))
        watching.cancel()
    assert returned < 20


async def test_queries_are_spread_around_the_interval(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    waits = set()
    for number in range(4):
        clock = FakeClock()
        settings = GitSettings(url=f"file://{origin.folder}", state=tmp_path / str(number))
        source = GitSource(settings, clock)
        before = (await source.read()).outlook
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(source.changed(before))
            await clock.advance(timedelta(0))
            assert clock.next_deadline is not None
            waits.add(clock.next_deadline - clock.now())
            waiting.cancel()
    assert all(timedelta(seconds=27) <= wait <= timedelta(seconds=33) for wait in waits)
    assert len(waits) > 1


class _Web(SimpleHTTPRequestHandler):
    """A plain web server, behind basic authentication when `expected` is set."""

    expected = ""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        if self.expected and base64.b64decode(given).decode() != self.expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="models"')
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http(folder: Path, expected: str = "") -> Iterator[str]:
    handler = type("_Handler", (_Web,), {"expected": expected})
    with listening(partial(handler, directory=str(folder))) as port:
        yield f"127.0.0.1:{port}"


def publish(origin: Origin) -> str:
    git(origin.folder, "update-server-info")
    return git(origin.folder, "rev-parse", "HEAD")


async def test_a_repository_on_a_plain_web_server_is_followed(origin: Origin, tmp_path: Path) -> None:
    origin.commit({"a.yaml": spec("a")})
    publish(origin)
    with http(origin.folder) as address:
        watched = Watched(f"http://{address}/.git", tmp_path / "state", interval=OFTEN)
        assert await watched.names() == ["a"]
        origin.commit({"b.yaml": spec("b")})
        seen = await watched.see(publish(origin))
        assert names(seen) == ["b"]
    async with asyncio.timeout(5):
        await watched.source.changed(seen.outlook)
    reading = await watched.source.read()
    assert names(reading) == ["b"]
    assert "127.0.0.1" in reading.problem


async def test_a_password_in_the_url_opens_the_door_and_never_shows(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.commit({"a.yaml": spec("a")})
    publish(origin)
    arguments = tmp_path / "arguments"
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(arguments))
    with http(origin.folder, expected="bot:s3cr3t/p@ss") as address:
        watched = Watched(f"http://bot:s3cr3t%2Fp%40ss@{address}/.git", tmp_path / "state")
        assert await watched.names() == ["a"]
    assert "ls-remote" in arguments.read_text()
    for secret in ("s3cr3t/p@ss", "s3cr3t%2Fp%40ss"):
        assert secret not in arguments.read_text()
        assert not [
            path for path in (tmp_path / "state").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        ]


@pytest.mark.parametrize("login", ["bot:hunter2@", "hunter2@", ""])
async def test_a_closed_door_says_what_is_needed_and_no_password(origin: Origin, tmp_path: Path, login: str) -> None:
    origin.commit({"a.yaml": spec("a")})
    publish(origin)
    with http(origin.folder, expected="bot:other") as address:
        watched = Watched(f"http://{login}{address}/.git", tmp_path / "state")
        reading = await watched.source.read()
    assert reading.desired is None
    assert "credential helper" in reading.problem
    assert "hunter2" not in reading.problem
    assert watched.requests == {("query", "denied"): 1}


SSH = """\
#!/bin/sh
# Stands in for ssh: notes how it was called, then runs git's command here.
echo "$@" >> {log}
eval command="\\${{$#}}"
exec sh -c "$command"
"""


@pytest.mark.parametrize("address", ["git@models.example:{path}", "ssh://git@models.example:2222{path}"])
async def test_a_repository_behind_ssh_is_followed(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    sha = origin.commit({"a.yaml": spec("a")})
    ssh = executable(tmp_path / "ssh", SSH.format(log=tmp_path / "log"))
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    watched = Watched(address.format(path=origin.folder), tmp_path / "state", interval=OFTEN)
    assert names(await watched.see(sha)) == ["a"]
    assert names(await watched.see(origin.commit({"b.yaml": spec("b")}))) == ["b"]
    assert "git@models.example git-upload-pack" in (tmp_path / "log").read_text()


async def test_ssh_never_asks_and_gives_up(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.commit({"a.yaml": spec("a")})
    executable(tmp_path / "bin" / "ssh", SSH.format(log=tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert await Watched(f"git@models.example:{origin.folder}", tmp_path / "state").names() == ["a"]
    assert "-o BatchMode=yes -o ConnectTimeout=10" in (tmp_path / "log").read_text()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ssh hang; return where it writes its process id."""
    pid = tmp_path / "pid"
    ssh = executable(tmp_path / "ssh", f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60\n")
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    return pid


async def gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            await asyncio.sleep(0.01)


async def test_a_host_that_does_not_answer_is_given_up_with_all_its_processes(tmp_path: Path, stuck: Path) -> None:
    watched = Watched("git@models.example:x", tmp_path / "state", query_limit=timedelta(seconds=0.5))
    reading = await watched.source.read()
    assert "no answer within 0.5 s" in reading.problem
    assert watched.requests == {("query", "timeout"): 1}
    await gone(int(stuck.read_text()))


async def test_a_cancelled_reading_ends_its_processes(tmp_path: Path, stuck: Path) -> None:
    watched = Watched("git@models.example:x", tmp_path / "state")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(watched.source.read())
        async with asyncio.timeout(5):
            while not stuck.exists():
                await asyncio.sleep(0.01)
        reading.cancel()
    await gone(int(stuck.read_text()))


async def test_a_slow_host_never_keeps_a_reader_waiting(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.commit({"a.yaml": spec("a")})
    slow, pid = tmp_path / "slow", tmp_path / "pid"
    hang = f"if [ -e {slow} ]; then echo $$ > {pid}; exec sleep 60; fi\n"
    text = SSH.format(log=tmp_path / "log").replace("eval", f"{hang}eval", 1)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(executable(tmp_path / "ssh", text)))
    watched = Watched(f"git@models.example:{origin.folder}", tmp_path / "state", interval=OFTEN)
    before = (await watched.source.read()).outlook
    assert await watched.names() == ["a"]
    slow.touch()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(watched.source.changed(before))
        async with asyncio.timeout(5):
            while not pid.exists():
                await asyncio.sleep(0.01)
            for _ in range(5):  # long enough for the next queries to be due
                await asyncio.sleep(OFTEN.total_seconds())
                assert await watched.names() == ["a"]
        waiting.cancel()


@pytest.mark.parametrize("url", ["ext::sh -c true", "-x", "ftp://example.com/x"])
def test_an_address_that_cannot_be_right_stops_the_daemon_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(Stalled):
        Watched(url, tmp_path / "state")


async def test_an_address_that_is_rewritten_to_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f'[url "ext::touch {tmp_path / "ran"} #"]\n\tinsteadOf = https://example.com/\n'
        '[protocol "ext"]\n\tallow = always\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    reading = await Watched("https://example.com/x", tmp_path / "state").source.read()
    assert "transport 'ext' not allowed" in reading.problem
    assert not (tmp_path / "ran").exists()


async def test_trouble_is_tried_again_sooner_than_an_interval_then_ever_later(tmp_path: Path) -> None:
    clock = FakeClock()
    source = GitSource(GitSettings(url=f"file://{tmp_path / 'gone'}", state=tmp_path / "state"), clock)
    waits = []
    before = (await source.read()).outlook
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(source.changed(before))
        for _ in range(7):
            async with asyncio.timeout(10):
                while clock.next_deadline is None:
                    await asyncio.sleep(0.005)
            waits.append((clock.next_deadline - clock.now()).total_seconds())
            await clock.advance(clock.next_deadline - clock.now())
        waiting.cancel()
    assert [round(wait / 2**number, 1) for number, wait in enumerate(waits[:5])] == pytest.approx([1.0] * 5, abs=0.11)
    assert all(27 <= wait <= 33 for wait in waits[5:])
