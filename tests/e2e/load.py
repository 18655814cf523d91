"""Steady traffic in the background, and what became of every single request."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.waiting import wait_for

LONGEST_SECONDS = 900
END_WITHIN = 120.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """One request that ended. Times are seconds since the epoch."""

    id: str
    kind: str
    start: float
    end: float
    status: int
    revision: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether a client would call it failed."""
        return self.status != 200 or bool(self.error)


class Load:
    """A load on one service, sent by another process."""

    def __init__(
        self, folder: Path, url: str, *, route: str = "/chat", rate: float = 110, prefix: str = "load"
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._out = folder / f"{prefix}.jsonl"
        self._settings = {
            "host": host,
            "port": int(port),
            "route": route,
            "rate": rate,
            "prefix": prefix,
            "seconds": LONGEST_SECONDS,
            "out": str(self._out),
        }
        self.rate = rate
        self._streams = 0
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.load_process", json.dumps(self._settings)], stdin=subprocess.PIPE
        )
        wait_for(lambda: len(self.records()) > 0, 20, "the load sends requests")

    def stream(self, seconds: float) -> str:
        """Open a stream that takes this long; return its id. It counts as open when this returns."""
        self._streams += 1
        key = f"stream-{self._streams}"
        self._order({"do": "stream", "id": key, "count": round(seconds * 2), "pause": 0.5})
        wait_for(lambda: any(record.id == key for record in self.records("opened")), 10, f"{key} is open")
        return key

    def stop(self) -> None:
        """Stop sending and wait for what is in flight, streams included."""
        if self._child is None:
            return
        child, self._child = self._child, None
        assert child.stdin is not None
        try:
            child.stdin.write(b'{"do": "stop"}\n')
            child.stdin.close()
            assert child.wait(END_WITHIN) == 0
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order).encode() + b"\n")
        self._child.stdin.flush()

    def records(self, *kinds: str) -> list[Record]:
        """Return what has ended so far."""
        if not self._out.exists():
            return []
        lines = self._out.read_text().rpartition("\n")[0].splitlines()
        found = (Record(**json.loads(line)) for line in lines)
        return [record for record in found if not kinds or record.kind in kinds]

    def requests(self) -> list[Record]:
        """Return the short requests that have ended so far."""
        return self.records("get", "post")

    def failures(self) -> list[Record]:
        """Return the requests and streams that failed."""
        return [record for record in self.records("get", "post", "stream") if record.failed]

    def revisions(self, since: float, sample: int) -> Counter[str]:
        """Count the answers per revision of `sample` requests in a row from `since` on; empty until all have ended.

        Those that ended within a time would be the wrong ones: the slower revision's are still under way then.
        """
        ended = {int(record.id.rpartition("-")[2]): record for record in self.requests()}
        first = min((number for number, record in ended.items() if record.start >= since), default=None)
        wanted = [] if first is None else [ended.get(number) for number in range(first, first + sample)]
        found = [record.revision for record in wanted if record is not None]
        return Counter(found) if len(found) == sample else Counter()


@contextmanager
def sending(load: Load) -> Iterator[Load]:
    """Send while the block runs."""
    load.start()
    try:
        yield load
    finally:
        load.stop()


def executed_twice(count_file: Path) -> list[str]:
    """Return the ids of POSTs that the application executed more than once."""
    counts = Counter(line.split()[0] for line in count_file.read_text().splitlines())
    return sorted(key for key, times in counts.items() if times > 1)


def binomial_interval(trials: int, share: float, confidence: float = 0.999) -> tuple[int, int]:
    """Return the counts between which a binomial variable lies with at least this confidence (equal tails)."""
    tail = (1 - confidence) / 2
    low, high, cumulated = 0, trials, 0.0
    for count in range(trials + 1):
        before = cumulated
        cumulated += _mass(count, trials, share)
        if before <= tail < cumulated:
            low = count
        if before < 1 - tail <= cumulated:
            return low, count
    return low, high


def _mass(count: int, trials: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(count == round(share * trials))
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return math.exp(ways + count * math.log(share) + (trials - count) * math.log1p(-share))
