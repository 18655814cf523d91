"""Further tokens of the API, beside the daemon's own: each with a name and a role, kept as hashes.

A token is 256 random bits, so that one round of SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from reconciler.adapters.state_folder import write_private
from reconciler.errors import Stalled
from reconciler.grants import Grant, Role

log = structlog.get_logger("heliostat")

FILE = "tokens.json"
PREFIX = "hst"
NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token as it is kept. `id` is its public part."""

    id: str
    name: str
    role: Role
    created_at: datetime
    hash: str


class TokenFile:
    """The tokens of one state folder. The command line changes the file; the daemon sees it at the next request."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read before it is asked for."""
        self._path = folder / FILE
        self._seen: tuple[int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def make(self, name: str, role: Role, now: datetime) -> str:
        """Return a new token; it is shown this once only. Raises Stalled when the name is taken."""
        token_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        text = f"{PREFIX}_{token_id}_{secret}"
        made = Token(id=token_id, name=name, role=role, created_at=now, hash=_hash(text))

        def change(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            if any(token.name == name for token in tokens):
                raise Stalled(f"there is a token called {name!r} already: revoke it first, or choose another name")
            return (*tokens, made)

        self._change(change)
        return text

    def revoke(self, name: str) -> None:
        """Take a token away by its name or id. Raises Stalled when there is none."""

        def change(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            kept = tuple(token for token in tokens if name not in (token.name, token.id))
            if kept == tokens:
                raise Stalled(f"there is no token called {name!r}")
            return kept

        self._change(change)

    def all(self) -> tuple[Token, ...]:
        """Return the tokens, oldest first. Raises Stalled when the file cannot be read."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        except OSError as error:
            raise Stalled(f"cannot read {self._path}: {error.strerror}") from error
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen:
            self._tokens, self._seen = self._read(), seen
        return self._tokens

    def find(self, text: str) -> Grant | None:
        """Return what a token opens, None for nothing. Compared in constant time, also when there is no such id."""
        token_id = text.partition("_")[2].partition("_")[0]
        try:
            known = next((token for token in self.all() if token.id == token_id), None)
        except Stalled as error:
            log.warning("no token but the daemon's own is accepted", reason=error.reason)
            return None
        is_right = hmac.compare_digest(_hash(text), known.hash if known is not None else NOBODY)
        return Grant(name=known.name, role=known.role) if known is not None and is_right else None

    def _read(self) -> tuple[Token, ...]:
        try:
            return tuple(
                Token(
                    id=entry["id"],
                    name=entry["name"],
                    role=Role(entry["role"]),
                    created_at=datetime.fromisoformat(entry["created_at"]),
                    hash=entry["hash"],
                )
                for entry in json.loads(self._path.read_text())
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Stalled(f"the tokens in {self._path} cannot be read ({error}): mend or remove the file") from error

    def _change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        with self._alone():
            entries = [
                {
                    "id": token.id,
                    "name": token.name,
                    "role": token.role.value,
                    "created_at": token.created_at.isoformat(),
                    "hash": token.hash,
                }
                for token in change(self.all())
            ]
            write_private(self._path, json.dumps(entries, indent=1) + "\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two commands at once must not undo each other's change."""
        try:
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Stalled(f"cannot write {self._path}: {error.strerror}") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
