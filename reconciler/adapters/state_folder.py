"""The daemon's state folder: who may read it, the API token in it, and how the command line finds it.

Layout: `state.db` (see `store.py`), `lock`, `token` (0600), `address` (where the API listens). Because a
daemon may keep its state anywhere, it also leaves a pointer named after its address in the default folder.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.errors import Stalled

SEAL_KEY = "seal-key"
TOKEN = "token"  # noqa: S105 (a file's name, not a secret)
ADDRESS = "address"
SERVERS = "servers"


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_STATE_HOME/heliostat`, by default `~/.local/state/heliostat`."""
    home = environ.get("XDG_STATE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return base / "heliostat"


def prepare(folder: Path) -> None:
    """Make the folder, readable by its owner only: the state holds code, settings and the API's token."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise Stalled(f"cannot use the state folder {folder}: {error.strerror}; choose another with --state") from error


def api_token(folder: Path) -> str:
    """Return the API's token, made at the first start and kept from then on."""
    path = folder / TOKEN
    try:
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32) + "\n")
        token = path.read_text().strip()
    except OSError as error:
        raise Stalled(f"cannot read or write the API token {path}: {error.strerror}") from error
    if len(token) < 16:
        raise Stalled(f"the API token in {path} is too short to be safe: delete the file and a new one is made")
    return token


def seal_key(folder: Path) -> bytes:
    """Return the key that seals are made with, made at the first start and kept from then on."""
    path = folder / SEAL_KEY
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(32) + "\n")
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise Stalled(f"cannot read or write the key {path}: {error}") from error


def announce(folder: Path, server: str, default: Path) -> None:
    """Say that the daemon with this state folder answers at `server`, a URL such as `http://127.0.0.1:8484`."""
    try:
        write_private(folder / ADDRESS, server + "\n")
    except OSError as error:
        raise Stalled(f"cannot note the daemon's address in {folder}: {error.strerror}") from error
    # The pointer only spares people HELIOSTAT_STATE: a home that cannot be written must not stop a daemon.
    with suppress(OSError, Stalled):
        prepare(default)
        prepare(default / SERVERS)
        write_private(default / SERVERS / _pointer(server), str(folder.resolve()) + "\n")


def find_token(server: str, folders: tuple[Path, ...], default: Path) -> str | None:
    """Return the token of the daemon at `server`, if its state folder is on this machine and readable.

    A folder's token is used only when that folder says it belongs to `server`: a token must not be sent
    to somebody else's daemon.
    """
    pointed = _read(default / SERVERS / _pointer(server))
    candidates = (*folders, *([Path(pointed)] if pointed else []), default)
    for folder in candidates:
        address = _read(folder / ADDRESS)
        if address and _pointer(address) == _pointer(server):
            return _read(folder / TOKEN)
    return None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _pointer(server: str) -> str:
    parts = urlsplit(server)
    host = (parts.hostname or "").replace(":", "_")
    host = "127.0.0.1" if host == "localhost" else host
    return f"{parts.scheme}_{host}_{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
