"""What the demo's daemon leaves behind is found and ended, and nothing else is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.demo import background
from reconciler.demo.background import Daemon
from reconciler.demo.options import Ports
from reconciler.demo.warden import end_gateways, gateways
from tests.e2e.waiting import wait_for

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
        assert started._warden is not None
        started._warden.wait(10)

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


SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def told_pid(started: Daemon) -> int:
    """Return the process that said so in the log."""
    return int(wait_for(started.tail, 10, "it says its number"))


def test_a_daemon_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = "import sys; from reconciler.demo import warden; warden.STOP_SECONDS = 0.2; sys.exit(warden.main())"
    monkeypatch.setattr(background, "WARDEN", (sys.executable, "-c", quick))
    monkeypatch.setattr(background, "ENTRY", (sys.executable, "-c", DEAF))

    with daemon(tmp_path) as started:
        pid = told_pid(started)

    assert started._warden is not None
    assert started._warden.returncode == 128 + signal.SIGKILL
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_of_its_session_does_not_lose_the_warden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(
        background, "ENTRY", (sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)")
    )

    with daemon(tmp_path) as started:
        told_pid(started)
        assert started._warden is not None
        os.kill(started._warden.pid, number)
        assert started._warden.poll() is None

    assert started._warden.returncode == 128 + signal.SIGTERM


def test_a_daemon_of_a_demo_that_was_killed_ends_with_its_gateway_and_folder(tmp_path: Path, haproxy: Path) -> None:
    """The demo is a process of its own here, and gets no chance to clear anything up."""
    folder = tmp_path / "demo"
    gateway = folder / "state" / "gateway"
    gateway.mkdir(parents=True)
    command = (
        f"import subprocess, time; subprocess.Popen([{str(haproxy)!r}, '60'], cwd={str(gateway)!r}, "
        "start_new_session=True); time.sleep(60)"
    )
    program = f"""
import sys, time
from pathlib import Path
from reconciler.demo import background
from reconciler.demo.options import Ports
background.ENTRY = (sys.executable, "-c", {command!r})
folder = Path({str(folder)!r})
with background.Daemon(
    repository=folder, state=folder / "state", log=folder / "log", ports=Ports(), remove=folder
) as started:
    print(started._warden.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        warden = int(demo.stdout.readline())
        wait_for(lambda: gateways(gateway), 10, "the gateway runs")

        demo.kill()
        demo.wait()

    wait_for(lambda: not Path(f"/proc/{warden}").exists(), 20, "the warden ends")
    assert gateways(gateway) == frozenset()
    assert not folder.exists()


def test_a_folder_that_the_demo_clears_up_itself_is_not_the_wardens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "ENTRY", (sys.executable, "-c", SLEEPER))
    mine = tmp_path / "mine"
    mine.mkdir()
    with Daemon(repository=mine, state=mine / "state", log=mine / "log", ports=PORTS, remove=mine):
        pass
    assert mine.exists()


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
