"""Signatures by real keys, checked by real git, gpg and ssh-keygen; and branches that were rewritten."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.git_trust import Trust
from reconciler.errors import Stalled
from reconciler.ports import Reading
from specs.reasons import Reason
from tests.origin import Origin, git
from tests.watched import Watched, spec

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CI") and not (shutil.which("gpg") and shutil.which("ssh-keygen")),
        reason="gpg and ssh-keygen are not installed",
    ),
]

FAR = timedelta(hours=1)


def keygen(folder: Path, name: str) -> Path:
    """Make an SSH key; return its private half."""
    key = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True, capture_output=True
    )
    return key


def fingerprint(key: Path) -> str:
    out = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], check=True, capture_output=True, text=True).stdout
    return out.split()[1]


class Team:
    """A repository whose commits are signed by whom a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = Origin(folder / "origin")
        self.signers = folder / "allowed_signers"
        self.number = 0

    def allow(self, *keys: Path) -> None:
        lines = [f"{key.name}@example.com {key.with_suffix('.pub').read_text()}" for key in keys]
        self.signers.write_text("".join(lines) or "# nobody\n")

    def push(self, name: str, key: Path | None = None, *, options: Mapping[str, str] | None = None) -> str:
        """Commit a service, signed by an SSH key, or as `options` of git say."""
        settings = dict(options or {})
        if key is not None:
            settings = {"gpg.format": "ssh", "user.signingKey": str(key)}
        self.number += 1
        self.origin.write({f"{name}.yaml": spec(name) + f"# {self.number}\n"})
        git(self.origin.folder, "add", "--all")
        flags = [word for item in settings.items() for word in ("-c", "=".join(item))]
        sign = ["-S"] if settings else []
        git(self.origin.folder, *flags, "commit", "--quiet", *sign, "-m", name)
        return git(self.origin.folder, "rev-parse", "HEAD")

    def watch(self, trust: Trust, state: str = "state") -> Watched:
        url = f"file://{self.origin.folder}"
        return Watched(url, self.folder / state, interval=timedelta(milliseconds=1), trust=trust)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


async def look(watched: Watched) -> Reading:
    await watched.source._refresh()
    return await watched.source.read()


async def followed(watched: Watched) -> str | None:
    reading = await look(watched)
    return reading.desired.commit.sha if reading.desired else None


async def test_only_commits_of_allowed_ssh_keys_are_followed(team: Team, tmp_path: Path) -> None:
    ada, eve = keygen(tmp_path, "ada"), keygen(tmp_path, "eve")
    team.allow(ada)
    watched = team.watch(Trust(signers=team.signers))
    good = team.push("one", ada)
    reading = await look(watched)
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.notes) == (good, ())

    bad = team.push("two", eve)
    reading = await look(watched)
    (note,) = reading.notes
    assert reading.desired is not None
    assert reading.desired.commit.sha == good
    assert (note.commit, note.reason, note.is_refused) == (bad, Reason.SIGNATURE_INVALID, True)
    assert bad[:12] in note.message
    assert fingerprint(eve) in note.message
    assert reading.problem == ""

    unsigned = team.push("three")
    (note,) = (await look(watched)).notes
    assert note.commit == unsigned
    assert "it is not signed" in note.message

    vouched = team.push("four", ada)
    reading = await look(watched)
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.notes) == (vouched, ())


async def test_the_users_own_git_settings_trust_nobody(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, eve = keygen(tmp_path, "ada"), keygen(tmp_path, "eve")
    team.allow(ada)
    hers = tmp_path / "hers"
    hers.write_text(f"eve@example.com {eve.with_suffix('.pub').read_text()}")
    config = tmp_path / "gitconfig"
    config.write_text(f'[gpg "ssh"]\n allowedSignersFile = {hers}\n program = true\n[gpg]\n program = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    team.push("one", eve)
    assert await followed(team.watch(Trust(signers=team.signers))) is None


async def test_a_commit_changed_after_it_was_signed_is_refused(team: Team, tmp_path: Path) -> None:
    ada = keygen(tmp_path, "ada")
    team.allow(ada)
    sha = team.push("one", ada)
    raw = git(team.origin.folder, "cat-file", "commit", sha)
    forged = git(
        team.origin.folder,
        "hash-object", "-t", "commit", "-w", "--stdin",
        stdin=(raw.replace("\n\none", "\n\ntwo") + "\n").encode(),
    )  # fmt: skip
    git(team.origin.folder, "update-ref", "refs/heads/main", forged)
    reading = await look(team.watch(Trust(signers=team.signers)))
    assert reading.desired is None
    assert "does not fit" in reading.notes[0].message


async def test_a_signer_that_is_taken_out_undoes_nothing_and_signs_nothing_more(team: Team, tmp_path: Path) -> None:
    ada, bob = keygen(tmp_path, "ada"), keygen(tmp_path, "bob")
    team.allow(ada, bob)
    trust = Trust(signers=team.signers)
    watched = team.watch(trust)
    live = team.push("one", ada)
    assert await followed(watched) == live
    team.allow(bob)
    assert await followed(watched) == live
    assert await followed(team.watch(trust)) == live
    team.push("two", ada)
    assert await followed(watched) == live
    newest = team.push("three", bob)
    assert await followed(watched) == newest


async def test_a_signer_that_is_added_needs_no_restart(team: Team, tmp_path: Path) -> None:
    ada, bob = keygen(tmp_path, "ada"), keygen(tmp_path, "bob")
    team.allow(ada)
    watched = team.watch(Trust(signers=team.signers))
    sha = team.push("one", bob)
    assert await followed(watched) is None
    team.allow(ada, bob)
    assert await followed(watched) == sha


async def test_a_signed_tag_vouches_for_the_commit_it_points_at(team: Team, tmp_path: Path) -> None:
    ada, eve = keygen(tmp_path, "ada"), keygen(tmp_path, "eve")
    team.allow(ada)
    watched = team.watch(Trust(signers=team.signers))
    sha = team.push("one")
    folder = team.origin.folder
    git(folder, "tag", "light", sha)
    git(folder, "tag", "-a", "-m", "unsigned", "plain", sha)
    git(folder, "-c", "gpg.format=ssh", "-c", f"user.signingKey={eve}", "tag", "-s", "-m", "hers", "hers", sha)
    assert await followed(watched) is None
    git(folder, "-c", "gpg.format=ssh", "-c", f"user.signingKey={ada}", "tag", "-s", "-m", "ok", "v1", sha)
    assert await followed(watched) == sha
    team.push("two")
    assert await followed(watched) == sha


class Gpg:
    """A person's own keyring."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.environment = os.environ | {"GNUPGHOME": str(home)}

    def run(self, *arguments: str) -> bytes:
        command = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        return subprocess.run(command, check=True, capture_output=True, env=self.environment, timeout=60).stdout

    def make(self, name: str, expires: str = "never") -> str:
        self.run("--quick-gen-key", f"{name} <{name}@example.com>", "ed25519", "sign", expires)
        listed = self.run("--list-keys", "--with-colons", f"{name}@example.com").decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, capture_output=True, env=self.environment)


@pytest.fixture
def gpg(monkeypatch: pytest.MonkeyPatch) -> object:
    # A socket's path may not be longer than 107 letters, and pytest's folders are deep.
    home = Path(f"/tmp/heliostat-gpg-{os.getpid()}")
    shutil.rmtree(home, ignore_errors=True)
    person = Gpg(home)
    monkeypatch.setenv("GNUPGHOME", str(home))
    yield person
    person.close()
    shutil.rmtree(home, ignore_errors=True)


async def test_only_commits_of_allowed_gpg_keys_are_followed(team: Team, tmp_path: Path, gpg: Gpg) -> None:
    ada, eve = gpg.make("ada"), gpg.make("eve")
    keys = tmp_path / "keys.asc"
    keys.write_bytes(gpg.run("--armor", "--export", ada))
    watched = team.watch(Trust(gpg_keys=keys), "a-state-folder-with-a-path-too-long-for-a-socket/" * 3)
    good = team.push("one", options={"user.signingKey": ada})
    reading = await look(watched)
    assert reading.desired is not None, reading
    assert (reading.desired.commit.sha, reading.notes) == (good, ())

    bad = team.push("two", options={"user.signingKey": eve})
    reading = await look(watched)
    (note,) = reading.notes
    assert reading.desired is not None
    assert reading.desired.commit.sha == good
    assert (note.commit, note.reason) == (bad, Reason.SIGNATURE_INVALID)
    assert eve[-16:] in note.message

    keys.write_bytes(gpg.run("--armor", "--export", ada, eve))
    assert await followed(watched) == bad
    assert len(list(tmp_path.rglob("gnupg-*"))) == 1


async def test_an_ssh_key_is_no_gpg_key_and_the_other_way_round(team: Team, tmp_path: Path, gpg: Gpg) -> None:
    ada = gpg.make("ada")
    ssh = keygen(tmp_path, "bob")
    keys = tmp_path / "keys.asc"
    keys.write_bytes(gpg.run("--export", ada))
    team.allow(ssh)
    signed_by_ssh = team.push("one", ssh)
    assert await followed(team.watch(Trust(gpg_keys=keys), "a")) is None
    assert await followed(team.watch(Trust(gpg_keys=keys, signers=team.signers), "b")) == signed_by_ssh
    signed_by_gpg = team.push("two", options={"user.signingKey": ada})
    assert await followed(team.watch(Trust(signers=team.signers), "c")) is None
    assert await followed(team.watch(Trust(gpg_keys=keys, signers=team.signers), "b")) == signed_by_gpg


async def test_keys_that_cannot_be_read_follow_nothing(team: Team, tmp_path: Path) -> None:
    keys = tmp_path / "keys.asc"
    keys.write_text("no key at all\n")
    team.push("one")
    reading = await look(team.watch(Trust(gpg_keys=keys)))
    assert reading.desired is None
    assert "allowed keys" in reading.problem


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_without_the_signers_file_the_daemon_does_not_start(team: Team, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        team.signers.write_text(content)
    with pytest.raises(Stalled, match="allowed signers"):
        team.watch(Trust(signers=team.signers))


async def test_a_rewritten_branch_is_held_until_it_goes_on_from_what_is_live(team: Team) -> None:
    watched = team.watch(Trust(may_rewrite=False))
    first = team.push("one")
    live = team.push("two")
    assert await followed(watched) == live
    git(team.origin.folder, "reset", "--quiet", "--hard", first)
    reading = await look(watched)
    (note,) = reading.notes
    assert (note.commit, note.reason, note.is_refused) == (first, Reason.NON_FAST_FORWARD, True)
    assert live[:12] in note.message
    assert reading.desired is not None
    assert reading.desired.commit.sha == live
    other = team.push("three")
    assert await followed(watched) == live
    assert await followed(team.watch(Trust(may_rewrite=False))) == live, "also after a restart"
    git(team.origin.folder, "merge", "--quiet", "-s", "ours", "-m", "go on", live)
    merged = git(team.origin.folder, "rev-parse", "HEAD")
    assert other != merged
    reading = await look(watched)
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.notes) == (merged, ())


async def test_a_branch_that_is_put_back_to_what_is_live_is_well_again(team: Team) -> None:
    watched = team.watch(Trust(may_rewrite=False))
    first, live = team.push("one"), team.push("two")
    await look(watched)
    git(team.origin.folder, "reset", "--quiet", "--hard", first)
    assert (await look(watched)).notes
    git(team.origin.folder, "reset", "--quiet", "--hard", live)
    assert (await look(watched)).notes == ()


async def test_a_rewritten_branch_is_followed_and_told_where_that_is_allowed(team: Team) -> None:
    watched = team.watch(Trust(may_rewrite=True))
    first = team.push("one")
    team.push("two")
    await look(watched)
    git(team.origin.folder, "reset", "--quiet", "--hard", first)
    reading = await look(watched)
    (note,) = reading.notes
    assert (note.reason, note.is_refused) == (Reason.NON_FAST_FORWARD, False)
    assert reading.desired is not None
    assert reading.desired.commit.sha == first
    assert (await look(watched)).notes == (note,), "told until another commit comes"
    team.push("three")
    assert (await look(watched)).notes == ()


async def test_a_refused_commit_lets_the_age_of_git_grow(team: Team) -> None:
    watched = team.watch(Trust(may_rewrite=False))
    first = team.push("one")
    team.push("two")
    seen = (await look(watched)).read_at
    git(team.origin.folder, "reset", "--quiet", "--hard", first)
    assert (await look(watched)).read_at == seen


async def test_a_local_repository_is_guarded_like_one_behind_a_url(team: Team, tmp_path: Path) -> None:
    ada = keygen(tmp_path, "ada")
    team.allow(ada)
    watched = Watched(team.origin.folder, tmp_path / "state", trust=Trust(signers=team.signers, may_rewrite=False))
    good = team.push("one", ada)
    seen = await watched.see(good)
    assert seen.notes == ()
    team.push("two")
    await watched.source.changed(seen.outlook)
    reading = await watched.source.read()
    assert reading.desired is not None
    assert reading.desired.commit.sha == good
    assert reading.notes[0].reason is Reason.SIGNATURE_INVALID


async def test_a_branch_that_disappears_keeps_its_services(team: Team) -> None:
    watched = team.watch(Trust())
    live = team.push("one")
    assert await followed(watched) == live
    git(team.origin.folder, "branch", "-m", "main", "gone")
    reading = await look(watched)
    assert reading.desired is not None
    assert reading.desired.commit.sha == live
    assert "no branch 'main'" in reading.problem
