"""Private repositories: opened by a key, a token or a program, none of which anybody else on the machine can read."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from reconciler.adapters.git_access import GitAccess
from reconciler.adapters.git_command import GitCommand, GitFailed
from reconciler.adapters.git_location import locate
from reconciler.adapters.git_objects import Objects
from reconciler.adapters.packaging import Entry, link_targets
from reconciler.errors import Stalled
from tests.local_http import listening
from tests.origin import Origin, git
from tests.unit.adapters.test_git_remote import SSH, executable, publish
from tests.watched import Watched, names, spec

TOKEN = "ghp-canary-7f21-token"
OFTEN = timedelta(milliseconds=50)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    made = Origin(tmp_path / "origin")
    made.commit({"a.yaml": spec("a")})
    publish(made)
    return made


def command_lines() -> bytes:
    """Return what everybody on this machine can read of everybody's processes."""
    found = b""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                found += (process / "cmdline").read_bytes() + b"\n"
            except OSError:
                continue
    return found


class Door:
    """A web server behind basic authentication; it looks around whenever git is at the door."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        self.seen = b""
        self.users: set[str] = set()

    @contextmanager
    def open(self, folder: Path) -> Iterator[str]:
        door = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
                door.seen += command_lines()
                if given != door.expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="models"')
                    self.end_headers()
                    return
                door.users.add(given)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        with listening(partial(Handler, directory=str(folder))) as port:
            yield f"http://127.0.0.1:{port}/.git"


def written(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


async def test_a_token_in_a_file_opens_the_door_out_of_sight(origin: Origin, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    door = Door(f"x-access-token:{TOKEN}")
    with door.open(origin.folder) as url:
        access = GitAccess(token_file=token, username="x-access-token")
        watched = Watched(url, tmp_path / "state", interval=OFTEN, access=access)
        assert await watched.names() == ["a"]
        assert b"ls-remote" in door.seen or b"remote-http" in door.seen, "it looked while git was there"
        assert TOKEN.encode() not in door.seen
        assert written(tmp_path / "state", TOKEN) == []

        door.expected = "x-access-token:the-next-token-0123"
        origin.commit({"b.yaml": spec("b")})
        sha = publish(origin)
        await watched.source._refresh()
        reading = await watched.source.read()
        assert "--git-token-file" in reading.problem
        assert TOKEN not in reading.problem
        token.write_text("the-next-token-0123")
        assert names(await watched.see(sha)) == ["b"], "a token that is exchanged needs no restart"


async def test_a_token_wins_over_one_in_the_url_and_neither_shows(origin: Origin, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    door = Door(f"bot:{TOKEN}")
    with door.open(origin.folder) as url:
        old = url.replace("http://", "http://bot:old-password@")
        watched = Watched(old, tmp_path / "state", access=GitAccess(token_file=token))
        assert await watched.names() == ["a"]
        assert b"old-password" not in door.seen
        assert TOKEN.encode() not in door.seen


@pytest.mark.parametrize("login", [f"{TOKEN}:x-oauth-basic", f"{TOKEN}:", "x-access-token:" + TOKEN])
async def test_a_token_in_the_url_is_out_of_sight_wherever_it_stands(
    origin: Origin, tmp_path: Path, login: str
) -> None:
    door = Door(login)
    with door.open(origin.folder) as url:
        watched = Watched(url.replace("http://", f"http://{login}@"), tmp_path / "state")
        assert await watched.names() == ["a"]
        door.expected = "another"
        await watched.source._refresh()
        problem = (await watched.source.read()).problem
    assert problem
    assert TOKEN not in problem
    assert b"remote-http" in door.seen
    assert TOKEN.encode() not in door.seen
    assert written(tmp_path / "state", TOKEN) == []


async def test_a_helper_is_asked_for_the_name_in_the_url_which_nobody_sees(origin: Origin, tmp_path: Path) -> None:
    helper = executable(
        tmp_path / "helper",
        f'#!/bin/sh\n[ "$1" = get ] && grep -qx "username={TOKEN}" && echo password=right\nexit 0\n',
    )
    door = Door(f"{TOKEN}:right")
    with door.open(origin.folder) as url:
        access = GitAccess(helper=str(helper))
        watched = Watched(url.replace("http://", f"http://{TOKEN}@"), tmp_path / "state", access=access)
        assert await watched.names() == ["a"]
    assert b"remote-http" in door.seen
    assert TOKEN.encode() not in door.seen
    assert written(tmp_path / "state", TOKEN) == []


async def test_a_token_goes_to_the_repositorys_host_only(origin: Origin, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    access = GitAccess(token_file=token)
    for address, scope in {
        "https://git.example:8443/team/models": "https://git.example:8443",
        "https://bot@git.example/x": "https://git.example",
    }.items():
        login = access.login(locate(address))
        assert login is not None
        assert login.scope == scope
        assert TOKEN not in repr(login)
    for address in ("git@git.example:x", "ssh://git@git.example/x", str(origin.folder)):
        assert access.login(locate(address)) is None


async def test_a_credential_helper_is_asked(origin: Origin, tmp_path: Path) -> None:
    helper = executable(
        tmp_path / "helper",
        f'#!/bin/sh\n[ "$1" = get ] && printf "username=bot\\npassword=%s\\n" "$(cat {tmp_path}/hidden)"\nexit 0\n',
    )
    (tmp_path / "hidden").write_text(TOKEN)
    door = Door(f"bot:{TOKEN}")
    with door.open(origin.folder) as url:
        watched = Watched(url, tmp_path / "state", access=GitAccess(helper=str(helper)))
        assert await watched.names() == ["a"]
    assert TOKEN.encode() not in door.seen
    assert written(tmp_path / "state", TOKEN) == []


async def test_an_ssh_key_is_the_only_one_that_is_tried(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, hosts = tmp_path / "a key", tmp_path / "known_hosts"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\ncanary-key\n")
    hosts.write_text("git.example ssh-ed25519 AAAA\n")
    executable(tmp_path / "bin" / "ssh", SSH.format(log=tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    access = GitAccess(ssh_key=key, known_hosts=hosts)
    watched = Watched(f"git@git.example:{origin.folder}", tmp_path / "state", access=access)
    assert await watched.names() == ["a"]
    called = (tmp_path / "log").read_text()
    assert f"-i {key}" in called
    for option in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f'UserKnownHostsFile="{hosts}"'):
        assert f"-o {option}" in called
    assert "canary-key" not in called


# -- what a small repository can make of itself ------------------------------------------------------------------------


def tree_bomb(origin: Origin, levels: int) -> str:
    """Commit a tree in which each folder is ten times the one below."""
    blob = git(origin.folder, "hash-object", "-w", "--stdin", stdin=b"x")
    tree = git(origin.folder, "mktree", stdin="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(levels):
        lines = "".join(f"040000 tree {tree}\td{number}\n" for number in range(10))
        tree = git(origin.folder, "mktree", stdin=lines.encode())
    sha = git(origin.folder, "commit-tree", tree, "-m", "bomb")
    git(origin.folder, "update-ref", "refs/heads/main", sha)
    return sha


async def test_a_tree_without_end_is_refused_in_bounded_memory(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.adapters.git_command.MOST_OUTPUT", 4 << 20)
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", interval=OFTEN)
    assert await watched.names() == ["a"]
    tree_bomb(origin, 11)
    await watched.source._refresh()
    reading = await watched.source.read()
    assert "this is no repository of specs" in reading.problem
    assert names(reading) == ["a"]


def test_a_command_that_says_too_much_is_ended(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = GitCommand(origin.folder / ".git", locate(str(origin.folder)))
    assert command.run("cat-file", "-t", "HEAD") == b"commit\n"
    monkeypatch.setattr("reconciler.adapters.git_command.MOST_OUTPUT", 3)
    with pytest.raises(GitFailed, match="git lists more than"):
        command.run("cat-file", "-t", "HEAD")


@pytest.mark.parametrize("date", ["99999999999999999 +0000", "253402300800 +0000", "0 +0000"])
def test_a_commit_may_claim_any_time(origin: Origin, date: str) -> None:
    tree = git(origin.folder, "rev-parse", "HEAD^{tree}")
    raw = f"tree {tree}\nauthor {'A' * 9000} <a> {date}\ncommitter C <c> {date}\n\n{'s' * 9000}\n"
    sha = git(origin.folder, "hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=raw.encode())
    found = Objects(GitCommand(origin.folder / ".git", locate(str(origin.folder)))).commit(sha, "main")
    assert found.sha == sha
    assert max(len(found.author), len(found.subject)) <= 500


def test_a_link_whose_target_is_no_path_is_not_even_read() -> None:
    link = Entry(path="link", mode="120000", oid="0" * 40, size=5 << 30)
    with pytest.raises(Stalled, match="no path"):
        link_targets([link])
