"""What the demo's daemon leaves behind is found and ended, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.demo import background
from reconciler.demo.background import Daemon, end_gateways, gateways
from reconciler.demo.options import Ports

PORTS = Ports(gateway=9000, page=9001, ray=9002)


@pytest.fixture
def haproxy(tmp_path: Path) -> Path:
    """Return an executable of that name that only waits."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    return Path(shutil.copy(Path(sleep).resolve(), tmp_path / "haproxy"))


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_only_the_haproxy_of_this_demo_is_ended(
    tmp_path: Path, haproxy: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    mine, other = tmp_path / "gateway", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        running.append(subprocess.Popen([haproxy, "60"], cwd=folder, start_new_session=True))
    running.append(subprocess.Popen(["sleep", "60"], cwd=mine))

    assert gateways(mine) == {running[0].pid}

    end_gateways(mine)

    assert running[0].wait(5) != 0
    assert [process.poll() for process in running[1:]] == [None, None]


def daemon(tmp_path: Path) -> Daemon:
    return Daemon(repository=tmp_path / "repo", state=tmp_path / "state", log=tmp_path / "daemon.log", ports=PORTS)


def test_the_users_own_settings_do_not_leak_into_the_demos_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_GATEWAY_TLS", "/etc/mine.pem")
    monkeypatch.setenv("KEPT", "yes")
    program = "import os; print({name for name in os.environ if name.startswith('HELIOSTAT')}, os.environ['KEPT'])"
    monkeypatch.setattr(background, "ENTRY", (sys.executable, "-c", program))

    with daemon(tmp_path) as started:
        assert started._child is not None
        started._child.wait(10)

    assert started.tail() == "set() yes"


def test_the_note_of_where_the_token_is_goes_with_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    notes = tmp_path / "home" / "heliostat" / "servers"
    notes.mkdir(parents=True)
    (notes / "http_127.0.0.1_9001").write_text(f"{tmp_path / 'state'}\n")
    (notes / "http_127.0.0.1_8484").write_text("/home/ann/state\n")
    monkeypatch.setattr(background, "ENTRY", (sys.executable, "-c", "pass"))

    with daemon(tmp_path):
        pass

    assert [note.name for note in notes.iterdir()] == ["http_127.0.0.1_8484"]


def test_a_daemon_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(background, "ENTRY", (sys.executable, "-c", program))
    monkeypatch.setattr(background, "STOP_SECONDS", 0.2)

    with daemon(tmp_path) as started:
        child = started._child
        assert child is not None
        while "deaf" not in started.tail():
            assert child.poll() is None

    assert child.returncode == -9


def test_the_command_line_is_one_that_a_user_could_type(tmp_path: Path) -> None:
    from reconciler.cli.run import run

    words = daemon(tmp_path).command

    assert words[0] == "run"
    parsed = run.make_context("run", words[1:]).params
    assert (parsed["listen"], parsed["gateway"], parsed["ray"]) == (
        "127.0.0.1:9001",
        "127.0.0.1:9000",
        "http://127.0.0.1:9002",
    )
