"""Private repositories behind a real OpenSSH server: opened by the one key, on the one host, or not at all."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.git_access import GitAccess
from tests.e2e.waiting import wait_for
from tests.origin import Origin
from tests.unit.adapters.test_git_access import command_lines, written
from tests.watched import Watched, names, spec

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
OFTEN = timedelta(milliseconds=100)

pytestmark = pytest.mark.skipif(SSHD is None and not os.environ.get("CI"), reason="needs sshd: openssh-server")

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
LogLevel VERBOSE
"""


def keygen(path: Path) -> str:
    """Make a key pair; return the public one."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


@dataclass(frozen=True, kw_only=True)
class Host:
    """A server on loopback with a host key of its own, and what a daemon needs to open its repository."""

    folder: Path
    port: int

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    @property
    def key(self) -> Path:
        return self.folder / "a key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known hosts"

    @property
    def access(self) -> GitAccess:
        return GitAccess(ssh_key=self.key, known_hosts=self.known_hosts)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def know(self, public: str) -> None:
        """Accept this host key, and no other."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(public.split()[:2])}\n")


@contextmanager
def serving(folder: Path, port: int) -> Iterator[None]:
    assert SSHD is not None, "sshd is not installed: apt-get install openssh-server"
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd drops its rights there, and does not start without
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    log = folder / "log"
    command = [SSHD, "-D", "-f", str(folder / "config"), "-E", str(log)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: listens(port), 20, "sshd listens", shows=log.read_text)
            yield
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    made = Host(folder=folder, port=free_port())
    (folder / "authorized").write_text(keygen(made.key) + "\n")
    made.know(keygen(folder / "host"))
    with serving(folder, made.port):
        yield made


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    made = Origin(tmp_path / "origin")
    made.commit({"a.yaml": spec("a")})
    return made


async def test_a_key_opens_the_repository_and_commits_are_followed(
    host: Host, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    watched = Watched(host.url(origin.folder), tmp_path / "state", interval=OFTEN, access=host.access)
    assert await watched.names() == ["a"]
    assert names(await watched.see(origin.commit({"b.yaml": spec("b")}), limit=30)) == ["b"]
    assert "Accepted publickey" in host.log


async def test_no_secret_is_where_others_can_read_it(host: Host, origin: Origin, tmp_path: Path) -> None:
    secrets = host.key.read_text().splitlines()[1:-1]
    hook = tmp_path / "look"
    look = f"#!/bin/sh\nfor p in /proc/[0-9]*; do cat $p/cmdline; echo; done >> {hook} 2>/dev/null\n"
    wrapper = tmp_path / "bin" / "git-upload-pack"
    wrapper.parent.mkdir()
    wrapper.write_text(f'{look}exec git upload-pack "$@"\n')
    wrapper.chmod(0o755)
    allowed = (host.folder / "authorized").read_text()
    forced = f'command="set -- $SSH_ORIGINAL_COMMAND; eval {wrapper} $2" {allowed}'
    (host.folder / "authorized").write_text(forced)
    watched = Watched(host.url(origin.folder), tmp_path / "state", access=host.access)
    assert await watched.names() == ["a"]
    seen = hook.read_bytes() + command_lines()
    assert b"IdentitiesOnly=yes" in seen, "it looked while ssh was there"
    for secret in secrets:
        assert secret.encode() not in seen
        assert written(tmp_path / "state", secret) == []


async def test_another_host_key_is_refused_and_named_as_such(host: Host, origin: Origin, tmp_path: Path) -> None:
    """Somebody in between has another key: nothing is fetched from there, and what was live stays."""
    watched = Watched(host.url(origin.folder), tmp_path / "state", interval=OFTEN, access=host.access)
    assert await watched.names() == ["a"]
    before = host.known_hosts.read_text()
    host.know(keygen(tmp_path / "another"))
    after = host.known_hosts.read_text()
    assert after != before
    origin.commit({"b.yaml": spec("b")})
    await watched.source._refresh()
    reading = await watched.source.read()
    assert names(reading) == ["a"]
    assert "the SSH host key is not the one that is known" in reading.problem
    assert "compare" in reading.problem
    assert watched.requests["query", "denied"] == 1
    assert host.known_hosts.read_text() == after, "nothing is learned by itself"
    host.known_hosts.write_text(before)
    await watched.source._refresh()
    assert await watched.names() == ["b"]


async def test_an_unknown_host_is_refused(host: Host, origin: Origin, tmp_path: Path) -> None:
    host.known_hosts.write_text("")
    reading = await Watched(host.url(origin.folder), tmp_path / "state", access=host.access).source.read()
    assert reading.desired is None
    assert "the SSH host key is unknown" in reading.problem
    assert host.known_hosts.read_text() == ""


async def test_without_known_hosts_of_its_own_nothing_is_believed_at_first_sight(
    host: Host, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    access = GitAccess(ssh_key=host.key)
    reading = await Watched(host.url(origin.folder), tmp_path / "state", access=access).source.read()
    assert reading.desired is None
    assert "SSH host key" in reading.problem


async def test_a_key_that_is_not_authorized_is_refused(host: Host, origin: Origin, tmp_path: Path) -> None:
    keygen(tmp_path / "stranger")
    access = GitAccess(ssh_key=tmp_path / "stranger", known_hosts=host.known_hosts)
    reading = await Watched(host.url(origin.folder), tmp_path / "state", access=access).source.read()
    assert reading.desired is None
    assert "Permission denied" in reading.problem
    assert "--git-ssh-key" in reading.problem


async def test_a_key_that_others_may_read_is_refused(host: Host, origin: Origin, tmp_path: Path) -> None:
    host.key.chmod(0o644)
    reading = await Watched(host.url(origin.folder), tmp_path / "state", access=host.access).source.read()
    assert reading.desired is None
    assert "chmod 600" in reading.problem
