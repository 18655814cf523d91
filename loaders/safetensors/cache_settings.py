"""Where a node keeps weights, and how many bytes of them: read once from the environment."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
FOLDER_VARIABLE = "HELIOSTAT_CACHE_DIR"
CAP_VARIABLE = "HELIOSTAT_CACHE_BYTES"
SHARE_OF_DISK = 0.5
"""Without a cap given, weights may take half of the file system: what else lives there must not starve."""


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """`cap` counts bytes of weights, the few of bookkeeping left out."""

    folder: Path
    cap: int


def parse_bytes(text: str) -> int:
    """Read `500G`, `64GiB` or a plain number, in powers of 1024."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no number of bytes; write for instance 500G, 64GiB or 1073741824")
    return int(float(found[1]) * UNITS[found[2].upper()])


def cache_settings(environment: Mapping[str, str] | None = None) -> CacheSettings:
    """Return what `HELIOSTAT_CACHE_DIR` and `HELIOSTAT_CACHE_BYTES` say, or the user's cache folder and half its disk.

    A folder in `/dev/shm` is the fastest; its bytes count as the container's memory.
    """
    variables = os.environ if environment is None else environment
    home = variables.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(variables.get(FOLDER_VARIABLE) or Path(home) / "heliostat" / "weights")
    given = variables.get(CAP_VARIABLE)
    if given is None:
        return CacheSettings(folder=folder, cap=int(_size_of_disk(folder) * SHARE_OF_DISK))
    try:
        return CacheSettings(folder=folder, cap=parse_bytes(given))
    except ValueError as error:
        raise ValueError(f"{CAP_VARIABLE}: {error}") from None


def _size_of_disk(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).total
