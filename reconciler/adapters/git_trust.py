"""Whether a commit may be followed: who signed it, and whether it goes on from the one that is followed now.

The work is git's, gpg's and ssh-keygen's own. They see nothing of the user's keyrings and settings: what counts is
only what the daemon's settings name.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reconciler.adapters.git_command import LOCAL_LIMIT, Failure, GitCommand, GitFailed
from reconciler.errors import Stalled
from specs.commit_notes import CommitNote
from specs.reasons import Reason

NOBODY = "/dev/null"
_GPG_SETTINGS = "no-auto-key-retrieve\nno-auto-key-locate\nno-autostart\ntrust-model always\n"
"""Whoever is in the keyring is trusted: that is what the settings say. Nothing is fetched, no agent is started."""

_NO_AGENT = "%Assuan%\nsocket=/dev/null/none\n"
"""Looks elsewhere for the agent that is not wanted: gpg gives up when its socket's path would be too long, as it
is in most state folders."""

_FAULTS = (
    (re.compile(r"\[GNUPG:\] EXPKEYSIG (?P<key>\w+)"), "by GPG key {key}, which has expired"),
    (re.compile(r"\[GNUPG:\] REVKEYSIG (?P<key>\w+)"), "by GPG key {key}, which was revoked"),
    (re.compile(r"\[GNUPG:\] EXPSIG (?P<key>\w+)"), "by GPG key {key}, and the signature has expired"),
    (re.compile(r"\[GNUPG:\] BADSIG (?P<key>\w+)"), "by GPG key {key}, but the signature does not fit"),
    (re.compile(r"\[GNUPG:\] (?:ERRSIG|NO_PUBKEY) (?P<key>\w+)"), "by GPG key {key}, which is not an allowed one"),
    (re.compile(r"Good \"git\" signature with (?P<key>\S+ key \S+)"), "by {key}, which is not an allowed signer's"),
    (re.compile(r"Good \"git\" signature for (?P<key>.+ key \S+)"), "by {key}, but not as allowed"),
    (
        re.compile(r"(?i)incorrect signature|signature verification failed"),
        "but the signature does not fit its content",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What the settings say of commits."""

    signers: Path | None = None
    """A file of OpenSSH's `allowed_signers` format."""
    gpg_keys: Path | None = None
    """A file with public keys as `gpg --export` writes them."""
    may_rewrite: bool = True
    """Whether a commit that does not go on from the one before is followed (a force push)."""

    @property
    def asks_for_signatures(self) -> bool:
        """Return whether only signed commits are followed."""
        return self.signers is not None or self.gpg_keys is not None


NO_QUESTIONS = Trust()
"""Follow whatever the branch is at."""


class Warden:
    """Judges commits of one mirror. Blocking: call it in a thread."""

    def __init__(self, command: GitCommand, trust: Trust, state: Path) -> None:
        """Raises Stalled when what is needed to check signatures is missing."""
        self._command = command
        self._trust = trust
        self._state = state
        for file, program, package in (
            (trust.signers, "ssh-keygen", "openssh-client"),
            (trust.gpg_keys, "gpg", "gpg"),
        ):
            if file is not None and shutil.which(program) is None:
                raise Stalled(f"{program} is needed to check signatures against {file}: install {package}")
        self._check()

    @property
    def asks_for_signatures(self) -> bool:
        """Return whether only signed commits are followed."""
        return self._trust.asks_for_signatures

    def _check(self) -> None:
        for file in (self._trust.signers, self._trust.gpg_keys):
            try:
                is_empty = file is not None and not file.read_bytes().strip()
            except OSError as error:
                raise Stalled(f"cannot read the allowed signers {file}: {error.strerror}") from error
            if is_empty:
                raise Stalled(f"the file of allowed signers {file} is empty: no commit could be followed")

    def fault(self, sha: str, tags: tuple[str, ...] = ()) -> str:
        """Return why nobody who is allowed vouches for a commit, "" when somebody does.

        A signature on the commit itself counts, or one on an annotated tag (a full ref name) that points at it.
        """
        if not self._trust.asks_for_signatures:
            return ""
        found = self._why_not("verify-commit", sha, "it is not signed")
        for tag in tags if found else ():
            if not self._why_not("verify-tag", tag, "not signed"):
                return ""
        return found

    def _why_not(self, verb: str, name: str, unsigned: str) -> str:
        signers = str(self._trust.signers) if self._trust.signers is not None else NOBODY
        gpg = "gpg" if self._trust.gpg_keys is not None else "false"
        ssh = "ssh-keygen" if self._trust.signers is not None else "false"
        settings = (
            f"gpg.ssh.allowedSignersFile={signers}",
            "gpg.minTrustLevel=fully",
            f"gpg.program={gpg}",
            f"gpg.openpgp.program={gpg}",
            f"gpg.ssh.program={ssh}",
            "gpg.x509.program=false",
            f"gpg.ssh.revocationFile={NOBODY}",
        )
        environment = {"GIT_CONFIG_GLOBAL": NOBODY, "GIT_CONFIG_NOSYSTEM": "1", "GNUPGHOME": str(self._keyring())}
        options = [option for setting in settings for option in ("-c", setting)]
        status, _, errors = self._command.attempt(*options, verb, "--raw", name, environment=environment)
        if status == 0:
            return ""
        said = errors.decode(errors="replace")
        return next(
            (
                f"it is signed {text.format(**found.groupdict())}"
                for rule, text in _FAULTS
                if (found := rule.search(said))
            ),
            "its signature is of a kind that is not allowed here" if said.strip() else unsigned,
        )

    def _keyring(self) -> Path:
        """Return a keyring of exactly the allowed keys, made anew whenever their file changes."""
        keys = self._trust.gpg_keys
        content = keys.read_bytes() if keys is not None else b""
        home = self._state / f"gnupg-{hashlib.sha256(content).hexdigest()[:12]}"
        if (home / "complete").exists():
            return home
        for old in self._state.glob("gnupg-*"):
            shutil.rmtree(old, ignore_errors=True)
        home.mkdir(mode=0o700, parents=True)
        (home / "gpg.conf").write_text(_GPG_SETTINGS)
        (home / "S.gpg-agent").write_text(_NO_AGENT)
        if keys is not None:
            self._import(keys, home)
        (home / "complete").touch()
        return home

    def _import(self, keys: Path, home: Path) -> None:
        command = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet", "--import", str(keys)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=LOCAL_LIMIT.total_seconds())
        except subprocess.TimeoutExpired:
            raise GitFailed(Failure.TIMEOUT, f"gpg did not read {keys} in time") from None
        if done.returncode != 0:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if "gpg-agent" not in line]
            why = "; ".join(said)[:500] or f"it ended with status {done.returncode}"
            raise GitFailed(Failure.OTHER, f"gpg cannot read the allowed keys {keys}: {why}")

    def rewrites(self, live: str, sha: str) -> bool:
        """Return whether `sha` does not go on from `live`: the branch was rewritten in between."""
        status, _, errors = self._command.attempt("merge-base", "--is-ancestor", live, sha)
        if status not in (0, 1):
            raise GitFailed(Failure.CORRUPT, f"cannot compare commits: {errors.decode(errors='replace').strip()[:200]}")
        return status == 1

    def judge(self, live: str | None, sha: str, fault: str) -> tuple[CommitNote, ...]:
        """Return what is to be said of a commit; nothing follows a refused one. `live` is the one followed now."""
        if fault:
            return (self.unsigned(sha, fault),)
        return (self.rewritten(live, sha),) if live is not None and self.rewrites(live, sha) else ()

    def unsigned(self, sha: str, fault: str) -> CommitNote:
        """Say that a commit is refused for its signature."""
        files = " and ".join(str(file) for file in (self._trust.signers, self._trust.gpg_keys) if file is not None)
        text = f"commit {sha[:12]} is not followed: {fault} (allowed are the keys in {files})"
        return CommitNote(commit=sha, reason=Reason.SIGNATURE_INVALID, message=text, is_refused=True)

    def rewritten(self, live: str, sha: str) -> CommitNote:
        """Say that the branch was rewritten, and whether that is followed."""
        text = f"the branch was rewritten: commit {sha[:12]} does not go on from {live[:12]}"
        if not self._trust.may_rewrite:
            text += f", which is held to. Push a commit that has {live[:12]} among its ancestors, or allow force pushes"
        return CommitNote(
            commit=sha, reason=Reason.NON_FAST_FORWARD, message=text, is_refused=not self._trust.may_rewrite
        )
