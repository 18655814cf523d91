"""How a range server behaves: its speed and its faults. A value, sent to the server's process as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rates are bytes per second; a rate of 0 is unlimited. `*_every=n` hits each n-th GET, 0 none."""

    first_byte: float = 0.0
    """Seconds between a request and the first byte of its answer."""
    bandwidth: float = 0.0
    """Of one connection."""
    total_bandwidth: float = 0.0
    """Of all connections together."""
    slow_every: int = 0
    slow_bandwidth: float = 0.0
    """What a slow answer gets instead of `bandwidth`."""
    stall_every: int = 0
    """A stalled answer sends half of its body and then nothing for a minute."""
    reset_every: int = 0
    """A reset answer sends half of its body, then RST."""
    truncate_every: int = 0
    """A truncated answer sends half of its body, then a clean end of the connection."""
    refuse_every: int = 0
    refuse_status: int = 503
    retry_after: str = ""
    """Sent with each refusal if not empty."""
    refuse_first: int = 0
    """So many GETs at the beginning are refused."""
    flip_every: int = 0
    """One byte in the middle of the body is wrong."""
    etag: str = ""
    """Instead of the one that is made of the file's content; `-` sends none."""
    change_etag_after: int = 0
    """After so many GETs the ETag is another one, as if the object had been replaced."""
    ignore_range: bool = False
    """Answer 200 with everything, as servers do that know no ranges."""
    ignore_if_match: bool = False
    close_each: bool = False
    """No keep-alive."""
    token: str = ""
    """Without `Authorization: Bearer TOKEN` the answer is 401."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the server did since the last reset. `body` counts bytes handed to the network, by path as well."""

    connections: int = 0
    requests: int = 0
    body: int = 0
    open_most: int = 0
    """The most GETs that were being answered at one time."""
    statuses: dict[str, int] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, first byte and number of bytes of each answered GET."""


def to_json(value: Shape | Counters) -> dict[str, object]:
    """Return the fields by name."""
    return dataclasses.asdict(value)
