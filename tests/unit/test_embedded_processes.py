"""Every process of an embedded cluster is found and ended, whatever it did to hide."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from reconciler.embedded import EmbeddedCluster
from reconciler.embedded_processes import MARK, end_members, members
from reconciler.errors import Stalled

FAMILY = """
import os, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
clean = {"PATH": os.environ["PATH"]}
subprocess.Popen(sleep, env=clean)                             # the mark is lost, the session is not
subprocess.Popen(sleep, env=clean, process_group=0)            # a group of its own
subprocess.Popen(sleep, start_new_session=True)                # a session of its own, with the mark
print("ready", flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def family() -> Iterator[tuple[int, str]]:
    """Start one leader with three children; return its session and its mark."""
    mark = f"test-{os.getpid()}"
    leader = subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
        start_new_session=True,
    )
    assert leader.stdin is not None
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"ready\n"
    yield leader.pid, mark
    end_members(leader.pid, mark)
    leader.stdin.close()
    leader.stdout.close()
    leader.wait()


def test_all_are_found_and_ended_and_nobody_else(family: tuple[int, str]) -> None:
    session, mark = family
    until(lambda: len(members(session, mark)) == 4)
    assert os.getpid() not in members(session, mark)
    assert end_members(session, mark) == frozenset()
    assert members(session, mark) == frozenset()


def test_whoever_is_spared_lives(family: tuple[int, str]) -> None:
    session, mark = family
    until(lambda: len(members(session, mark)) == 4)
    assert end_members(session, mark, spare=frozenset({session})) == frozenset()
    assert members(session, mark) == {session}


def test_a_taken_port_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cluster = EmbeddedCluster(dashboard_port=taken.getsockname()[1])
        with pytest.raises(Stalled, match="is taken"):
            cluster.start()
    cluster.stop()


def test_other_systems_are_told_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Stalled, match="needs Linux"):
        EmbeddedCluster().start()
