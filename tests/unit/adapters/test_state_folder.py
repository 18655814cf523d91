from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.adapters.lease import FileLease
from reconciler.adapters.state_folder import announce, api_token, default_folder, find_token, prepare
from reconciler.errors import Stalled


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_folder_is_closed_to_others_even_if_it_was_open(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    prepare(folder)
    assert mode(folder) == 0o700
    folder.chmod(0o755)
    prepare(folder)
    assert mode(folder) == 0o700


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Stalled, match="--state"):
        prepare(tmp_path / "file" / "state")


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    token = api_token(tmp_path)
    assert len(token) >= 32
    assert api_token(tmp_path) == token
    assert mode(tmp_path / "token") == 0o600
    other = tmp_path / "other"
    prepare(other)
    assert api_token(other) != token


def test_a_token_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(Stalled, match="too short"):
        api_token(tmp_path)


def test_the_command_line_finds_the_token_of_the_daemon_it_talks_to(tmp_path: Path) -> None:
    default, first, second = tmp_path / "default", tmp_path / "first", tmp_path / "second"
    for folder, port in ((first, 8484), (second, 8585)):
        prepare(folder)
        api_token(folder)
        announce(folder, f"http://127.0.0.1:{port}", default)
    assert find_token("http://127.0.0.1:8484", (), default) == api_token(first)
    assert find_token("http://localhost:8585/", (), default) == api_token(second)
    assert find_token("http://127.0.0.1:8585", (first,), default) == api_token(second)


def test_a_token_is_never_found_for_another_host_or_port(tmp_path: Path) -> None:
    default = tmp_path / "default"
    prepare(default)
    api_token(default)
    announce(default, "http://127.0.0.1:8484", default)
    assert find_token("http://127.0.0.1:8484", (), default)
    for server in ("http://evil.example:8484", "https://127.0.0.1:8484", "http://127.0.0.1:8485"):
        assert find_token(server, (default,), default) is None


def test_a_home_that_cannot_be_written_does_not_stop_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state, default = tmp_path / "state", tmp_path / "file" / "heliostat"
    prepare(state)
    token = api_token(state)
    announce(state, "http://127.0.0.1:8484", default)
    assert find_token("http://127.0.0.1:8484", (state,), default) == token


def test_the_default_folder_follows_xdg() -> None:
    assert default_folder({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/heliostat")
    assert default_folder({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/state/heliostat")
    assert default_folder({"HOME": "/h"}) == Path("/h/.local/state/heliostat")


HOLDER = """
import sys, time
from pathlib import Path
from reconciler.adapters.lease import FileLease
FileLease(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_daemon_is_told_who_holds_the_state_and_may_act_once_that_one_died(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(Stalled, match=rf"pid {child.pid}\).*{tmp_path}"):
            FileLease(tmp_path).acquire()
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    with FileLease(tmp_path) as lease:
        assert lease.is_held
        with pytest.raises(Stalled):
            FileLease(tmp_path).acquire()
    with FileLease(tmp_path):
        pass
