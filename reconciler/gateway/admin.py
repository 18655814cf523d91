"""A small client for HAProxy's admin socket, and typed readers of what it answers."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROMPT = "\n> "

UNCHECKED = frozenset({"", "UNK", "INI"})
"""What `check_status` says before the first check has ended."""


class AdminError(Exception):
    """HAProxy did not answer, or refused a command."""


@dataclass(frozen=True, kw_only=True)
class AdminSocket:
    """One HAProxy process's admin socket. Every call opens a connection of its own: nothing to repair."""

    path: Path
    timeout: float = 5.0

    async def ask(self, commands: Sequence[str]) -> tuple[str, ...]:
        """Run the commands in order and return their answers. Raises AdminError when HAProxy is silent."""
        try:
            async with asyncio.timeout(self.timeout):
                text = await self._converse(commands)
        except (OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise AdminError(f"HAProxy does not answer on {self.path.name}: {why}") from error
        _, *answers, _ = text.split(_PROMPT)
        if len(answers) != len(commands):
            raise AdminError(f"HAProxy answered {len(answers)} of {len(commands)} commands on {self.path.name}")
        return tuple(answers)

    async def _converse(self, commands: Sequence[str]) -> str:
        # Prompt mode tells the answers apart: in plain mode several answers run into one another.
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write("\n".join(["prompt", *commands, "quit", ""]).encode())
            await writer.drain()
            return (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def tell(self, commands: Sequence[str], accepted: Iterable[str] = ()) -> None:
        """Run commands that answer nothing, or one of `accepted`. Raises AdminError with what was refused."""
        expected = {"", *accepted}
        answers = await self.ask(commands)
        for command, answer in zip(commands, answers, strict=True):
            if answer.strip() not in expected:
                raise AdminError(f"HAProxy refused `{command}`: {answer.strip()}")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A backend's counters since its process started.

    `broken` are answers that the replica cut, or did not begin on a connection that was used before: HAProxy
    then closes the client's without a word, as a replica alone would have done.
    """

    requests: int = 0
    aborted: int = 0
    broken: int = 0
    codes: tuple[int, ...] = (0, 0, 0, 0, 0)
    """Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx."""

    @property
    def errors(self) -> int:
        """Return 5xx answers (HAProxy's own for a replica without an answer included) and broken ones."""
        return self.codes[4] + self.broken

    def __add__(self, other: Counts) -> Counts:
        """Return the sum."""
        return self._combined(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        """Return the difference."""
        return self._combined(other, -1)

    def _combined(self, other: Counts, sign: int) -> Counts:
        return Counts(
            requests=self.requests + sign * other.requests,
            aborted=self.aborted + sign * other.aborted,
            broken=self.broken + sign * other.broken,
            codes=tuple(mine + sign * theirs for mine, theirs in zip(self.codes, other.codes, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class ServerStat:
    """One server as HAProxy sees it. `is_up`: its own check passed and it takes new requests."""

    name: str
    address: str
    status: str
    is_up: bool
    in_flight: int
    requests: int = 0
    """Since it was added."""


@dataclass(frozen=True, kw_only=True)
class LaneStat:
    """One backend with its servers."""

    in_flight: int
    counts: Counts
    servers: tuple[ServerStat, ...]


def parse_stat(text: str) -> LaneStat:
    """Read `show stat LANE 6 -1`. Raises AdminError when there is no such backend."""
    servers: list[ServerStat] = []
    lane: tuple[int, Counts] | None = None
    for record in csv.DictReader(text.removeprefix("# ").splitlines()):
        if record["svname"] == "BACKEND":
            lane = int(record["scur"]), _read_counts(record)
        elif record["svname"]:
            servers.append(_read_server(record))
    if lane is None:
        raise AdminError(f"HAProxy reports no such lane: {text.strip()[:200]}")
    return LaneStat(in_flight=lane[0], counts=lane[1], servers=tuple(servers))


def _read_counts(record: dict[str, str]) -> Counts:
    names = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx")
    return Counts(
        requests=int(record["stot"]),
        aborted=int(record["cli_abrt"]),
        broken=int(record["srv_abrt"]),
        codes=tuple(int(record[name]) for name in names),
    )


def _read_server(record: dict[str, str]) -> ServerStat:
    status = record["status"]
    return ServerStat(
        name=record["svname"],
        address=record["addr"],
        status=status,
        # Before its first check a new server counts as up; at that check's failure it goes down at once.
        is_up=status.startswith("UP") and record["check_status"].removeprefix("* ") not in UNCHECKED,
        in_flight=int(record["scur"]),
        requests=int(record["stot"]),
    )


def parse_map(text: str) -> dict[str, str]:
    """Read `show map`; values may be anything but a line break. Of entries with one key HAProxy uses the first."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip():
            _, key, value = line.split(" ", 2)
            entries.setdefault(key, value)
    return entries


def parse_table(text: str) -> dict[str, int]:
    """Read `gpc0` per key from `show table`."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
        if "key" in fields and "gpc0" in fields:
            counts[fields["key"]] = int(fields["gpc0"])
    return counts


def parse_info(text: str) -> dict[str, str]:
    """Read `show info`."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
