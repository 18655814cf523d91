"""`heliostat demo`, started as a user would: its story, its table, and that nothing of it is left."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.waiting import wait_for
from tests.typed import printed_commands

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

STORY_WITHIN = 300
"""The whole demo on two cores, as its documentation promises."""

PLACES_WITHIN = 420
"""The story about places: six nodes, nine replicas, and three nodes that are emptied one after the other."""

GONE_WITHIN = 60
PORTS = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    """Lend a short temporary folder that no process uses afterwards."""
    with tempfile.TemporaryDirectory(prefix="hd-", dir="/tmp") as path:
        yield Path(path)


def free_base() -> int:
    """Return the first of three free ports in a row."""
    for base in range(20_000 + os.getpid() % 1000 * 5, 60_000, PORTS):
        with suppress(OSError):
            for port in range(base, base + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
    raise AssertionError("no three free ports in a row")


class Running:
    """The demo as a child process in a session of its own, with a mark that all its descendants inherit."""

    def __init__(self, folder: Path, base: int, *options: str) -> None:
        self.base = base
        self.mark = f"DEMO_UNDER_TEST={folder.name}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.sessions: set[int] = set()
        self._narration = (folder / "narration.txt").open("w+")
        name, _, value = self.mark.partition("=")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "reconciler.cli.main", "demo", "--port-base", str(base), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._narration,
            text=True,
            env={**os.environ, name: value, "TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    @property
    def narration(self) -> str:
        """Return what it has told so far."""
        return Path(self._narration.name).read_text()

    def await_told(self, words: str, within: float) -> None:
        """Wait until it has told something, and note the sessions that its processes live in by then."""
        wait_for(lambda: words in self.narration, within, f"it tells {words!r}", shows=lambda: self.narration)
        self.sessions |= {session for _, session, _ in processes(self) if session}

    def finish(self, within: float) -> tuple[int, str]:
        """Return its exit status and what it printed, once it has ended by itself."""
        printed, _ = self.child.communicate(timeout=within)
        return self.child.returncode, printed

    def close(self) -> None:
        """End what a failed test may have left."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
            try:
                self.child.wait(GONE_WITHIN)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self.child.stdout:
            self.child.stdout.close()
        self._narration.close()


@pytest.fixture
def base() -> int:
    return free_base()


Start = Callable[..., Running]


@pytest.fixture
def start(folder: Path, base: int) -> Iterator[Start]:
    started: list[Running] = []

    def begin(*options: str) -> Running:
        started.append(Running(folder, base, *options))
        return started[-1]

    yield begin
    for running in started:
        running.close()


def processes(running: Running) -> list[tuple[int, int, str]]:
    """Return pid, session and command line of each living process of the demo.

    Known by the mark in its environment, by the folder it works in, or by a session noted before: Ray's
    workers overwrite their environment, and HAProxy is given none.
    """
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            belongs = (
                int(fields[3]) in running.sessions
                or running.mark.encode() in (process / "environ").read_bytes().split(b"\0")
                or str(running.temporary) in str((process / "cwd").readlink())
            )
            if belongs and fields[0] not in "ZX":
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(process.name), int(fields[3]), words[:200]))
    return found


def assert_nothing_is_left(running: Running) -> None:
    # Of a demo that was killed, others clear everything up: they are processes, too.
    wait_for(lambda: not processes(running), GONE_WITHIN, "all processes end", shows=lambda: processes(running))
    assert list(running.temporary.iterdir()) == []
    for port in range(running.base, running.base + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def figures(printed: str) -> dict[str, str]:
    """Return the lines below the table: name, then value."""
    return {
        name.strip(): value.strip()
        for name, value in (re.split(r" {2,}", line, maxsplit=1) for line in printed.splitlines() if "  " in line)
    }


def test_the_story_goes_as_told_and_leaves_nothing(start: Start) -> None:
    began = time.monotonic()
    running = start()
    running.await_told("Committed services/greeter", 120)
    kinds = " ".join(words for _, _, words in processes(running))
    assert [kind for kind in ("raylet", "haproxy", "reconciler.cli.main run") if kind not in kinds] == []

    status, printed = running.finish(STORY_WITHIN)

    assert status == 0, f"{printed}\n{running.narration}"
    assert time.monotonic() - began < STORY_WITHIN
    told = figures(printed)
    assert told["requests failed"] == "0"
    assert re.fullmatch(r"0 of \d{3,} POSTs, counted by the service itself", told["executed twice"])
    assert int(told["requests sent"]) > 500
    assert re.fullmatch(r"v1 \d+, v2 \d+", told["answers per version"])
    peak = re.match(r"(\d) of at most 4 ", told["peak replicas"])
    assert peak is not None
    assert int(peak[1]) == 4
    for stage in ("v1 deployed", "v2 at 20%", "v2 at 50%", "v2 to 100%", "v1 retires", "v3 rolled back"):
        assert re.search(rf"^{stage} +\d+\.\d", printed, re.M), printed
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'greeting.txt'" in running.narration
    assert "\x1b" not in printed + running.narration
    assert_nothing_is_left(running)


@pytest.mark.slow
def test_the_story_about_places_goes_as_told_and_leaves_nothing(start: Start) -> None:
    running = start("--placement")
    running.await_told("Committed two specs", 120)

    status, printed = running.finish(PLACES_WITHIN)

    assert status == 0, f"{printed}\n{running.narration}"
    told = figures(printed)
    assert re.fullmatch(r"0 of \d{3,} POSTs, counted by the service itself", told["executed twice"])
    assert told["nodes"] == "6 before, 3 after"
    assert told["greeters per zone"] == "a 2, b 2, c 2"
    assert told["requests failed"] == told["failed with their zone"].partition(",")[0]
    for stage in ("both deployed", "zone c lost, rebuilt", "zone c refilled", "6 nodes to 3"):
        assert re.search(rf"^{stage} +\d+\.\d", printed, re.M), printed
    pictures = re.findall(r"^ +zone a +zone b +zone c\n(?: .*\n)*", running.narration, re.M)
    boxes = [(len(re.findall(r"\+- 127[0-9.]+ -", one)), len(re.findall("dead", one))) for one in pictures]
    assert boxes == [(6, 0), (4, 2), (6, 0), (3, 3)], running.narration
    assert "\x1b" not in printed + running.narration
    assert_nothing_is_left(running)


@pytest.mark.slow
def test_an_interrupt_while_a_zone_dies_leaves_nothing(start: Start) -> None:
    running = start("--placement")
    running.await_told("kill -9 of all of Ray on", PLACES_WITHIN)
    running.child.send_signal(signal.SIGINT)
    status, printed = running.finish(GONE_WITHIN)
    assert status == 128 + signal.SIGINT
    assert "The story" not in printed
    assert_nothing_is_left(running)


class User:
    """Somebody at a second terminal who types what the demo printed, line by line."""

    def __init__(self, running: Running) -> None:
        self._api = f"http://127.0.0.1:{running.base + 1}/api/v1"
        self._service = f"http://127.0.0.1:{running.base}/greeter/"
        self._running = running
        self.watch, folder, *self.lines = printed_commands(running.narration)
        self.folder = shlex.split(folder)[1]

    def type(self, *beginnings: str) -> str:
        """Type the next lines, which begin like this; return what the last one printed."""
        printed = ""
        for beginning in beginnings:
            line = self.lines.pop(0)
            assert line.startswith(beginning) or f" {beginning}" in line, line
            done = subprocess.run(
                ["bash", "-ec", line], check=False, cwd=self.folder, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            printed = done.stdout
        return printed

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self._api}/services/greeter", timeout=10, trust_env=False).json()
        return found

    def see(self, within: float, what: str, **fields: Any) -> dict[str, Any]:
        """Wait until the service's status has these fields."""

        def reached() -> dict[str, Any]:
            found = self.status()
            return found if all(found.get(key) == value for key, value in fields.items()) else {}

        return wait_for(reached, within, what, shows=lambda: f"{self.status()}\n{self._running.narration[-3000:]}")

    def see_promoted(self, before: str) -> str:
        """Wait until another revision than the one before has everything; return it."""
        self.see(30, "the new revision is on its way", phase="Progressing")
        status = self.see(120, "it has everything", sync="Synced", health="Healthy", candidate=None)
        assert status["stable"] != before
        assert status["weights"] == {status["stable"]: 100}
        return str(status["stable"])

    def answer(self) -> str:
        return httpx.get(self._service, timeout=10, trust_env=False).raise_for_status().text.strip()

    def rollouts(self) -> int:
        events = httpx.get(f"{self._api}/services/greeter/events", timeout=10, trust_env=False).json()["events"]
        return [event["kind"] for event in events].count("RolloutStarted")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_user_who_types_what_the_demo_printed_sees_what_it_says(start: Start) -> None:
    """A unit test holds the README to the same commands."""
    running = start("--stay")
    running.await_told("compaction --server", STORY_WITHIN)
    user = User(running)
    v2 = user.status()["stable"]
    with subprocess.Popen(["bash", "-c", f"exec {user.watch}"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "greeter" in watching.stdout.readline() + watching.stdout.readline()

        user.type("echo Hello", "git add")
        v3 = user.see_promoted(v2)
        assert user.answer() == "Hello from v3"

        user.type("sed", "git commit")
        v4 = user.see_promoted(v3)
        assert user.answer() == "Hello from v4"

        user.type("sed", "git commit")
        wait_for(lambda: user.status()["quarantined"], 120, "it is quarantined", shows=user.status)
        status = user.see(60, "nothing of it is left", candidate=None)
        assert (status["stable"], status["weights"]) == (v4, {v4: 100})
        assert "ZeroDivisionError" in user.type("history")
        assert user.answer() == "Hello from v4"
        rollouts = user.rollouts()

        user.type("git revert")
        user.see(60, "back to what runs already", sync="Synced", health="Healthy", stable=v4, candidate=None)

        user.type("sed", "git commit")
        wait_for(lambda: user.status()["replicas"]["ready"] == 4, 60, "four replicas", shows=user.status)
        assert user.status()["stable"] == v4
        assert user.rollouts() == rollouts
        # A head and three nodes, of which one holds all replicas and one more.
        assert re.search(r"^nodes +4 now, 2 afterwards", user.type("compaction"), re.MULTILINE)
        assert user.lines == []
        assert watching.poll() is None
        watching.terminate()
    running.child.send_signal(signal.SIGINT)
    status_code, printed = running.finish(GONE_WITHIN)
    print(running.narration, printed)
    assert status_code == 0
    assert re.search(r"All in all \d{4,} requests: 0 failed, 0 executed twice", running.narration)
    assert_nothing_is_left(running)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, "Starting a Ray cluster", marks=pytest.mark.slow),
        (signal.SIGTERM, "starting Serve on it"),
        pytest.param(signal.SIGINT, "Heliostat has seen the commit: v1", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "Heliostat has seen the commit: v1", marks=pytest.mark.slow),
    ],
    ids=[
        "Ctrl-C while Ray starts",
        "SIGTERM while Serve starts",
        "Ctrl-C in the middle of a deployment",
        "kill -9 in the middle of a deployment",
    ],
)
def test_an_interrupt_at_any_moment_leaves_nothing(start: Start, number: signal.Signals, moment: str) -> None:
    running = start()
    running.await_told(moment, 120)

    running.child.send_signal(number)
    status, printed = running.finish(GONE_WITHIN)

    assert status == (-number if number is signal.SIGKILL else 128 + number)
    assert "The story" not in printed
    assert_nothing_is_left(running)


def test_a_taken_port_is_named_before_anything_starts(start: Start, base: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()

        running = start()
        status, _ = running.finish(20)

    assert status == 1
    assert f"{base + 1} (for the status page)" in running.narration
    assert "--port-base" in running.narration
    assert_nothing_is_left(running)
