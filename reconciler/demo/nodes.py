"""The nodes as the daemon shows them, and their picture for a terminal: boxes by zone, replicas in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.demo.screen import BOLD, DIM, RED, VERSION_COLOURS, YELLOW, Names, Screen

BOX_WIDTH = 24
"""Three zones side by side are 76 columns wide."""

GLYPHS = {"RUNNING": "■", "STARTING": "□", "STOPPING": "▫", "MOVING": "▣"}
SIGNS = {"RUNNING": "", "STARTING": "+", "STOPPING": "-", "MOVING": ">"}
"""Behind a letter, where there are no colours."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One replica. `state` is Serve's, or MOVING for one that answers while its node is being emptied."""

    service: str
    revision: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Box:
    """One worker node. `state` is "" for one that simply works."""

    ip: str
    zone: str
    state: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class NodesSight:
    """All worker nodes by zone and address. Dead ones are there until a living one has their address."""

    boxes: tuple[Box, ...] = ()

    @property
    def alive(self) -> tuple[Box, ...]:
        """Return the nodes that live."""
        return tuple(box for box in self.boxes if box.state != "dead")

    @property
    def is_at_rest(self) -> bool:
        """Return whether no replica starts, stops or moves away."""
        return all(dot.state == "RUNNING" for box in self.alive for dot in box.dots)

    def per_zone(self, service: str) -> Mapping[str, int]:
        """Return how many replicas of a service run in each zone, whatever revision they are."""
        counts = Counter(
            box.zone
            for box in self.alive
            for dot in box.dots
            if dot.service == service and dot.state in {"RUNNING", "MOVING"}
        )
        return dict(sorted(counts.items()))


def read_nodes(document: Mapping[str, Any]) -> NodesSight:
    """Read `GET /api/v1/nodes`; the head is left out."""
    found: dict[str, list[Dot]] = {}
    for replica in document["replicas"]:
        if replica["service"] and replica["node"]:
            state = "MOVING" if replica["isMigrating"] else replica["state"]
            dot = Dot(service=replica["service"], revision=replica["revision"], state=state)
            found.setdefault(replica["node"], []).append(dot)
    workers = [node for node in document["nodes"] if not node["isHead"]]
    living = {node["ip"] for node in workers if node["isAlive"]}
    dead = {node["ip"]: node for node in workers if not node["isAlive"] and node["ip"] not in living}
    shown = [*(node for node in workers if node["isAlive"]), *dead.values()]
    boxes = (
        Box(
            ip=node["ip"],
            zone=node["zone"] or "",
            state=_state(node),
            dots=tuple(found.get(node["id"], ())) if node["isAlive"] else (),
        )
        for node in shown
    )
    return NodesSight(boxes=tuple(sorted(boxes, key=lambda box: (box.zone, box.ip))))


def _state(node: Mapping[str, Any]) -> str:
    if not node["isAlive"]:
        return "dead"
    return "draining" if node["isDraining"] else ""


@dataclass(kw_only=True)
class Painter:
    """Draws the nodes. A service's revision keeps its colour for the whole story."""

    screen: Screen
    names: Names
    _colours: dict[tuple[str, str], str] = field(default_factory=dict)

    def draw(self, nodes: NodesSight) -> list[str]:
        """Return the picture: a column for each zone, and what the colours mean."""
        zones = sorted({box.zone for box in nodes.boxes})
        columns = [self._column(zone, [box for box in nodes.boxes if box.zone == zone]) for zone in zones]
        height = max((len(column) for column in columns), default=0)
        blank = _Text(plain=" " * BOX_WIDTH, shown=" " * BOX_WIDTH)
        rows = zip(*([*column, *[blank] * (height - len(column))] for column in columns), strict=True)
        lines = [f"{'':9}{' '.join(text.shown for text in row)}".rstrip() for row in rows]
        return [*lines, *self._legend(nodes)]

    def _column(self, zone: str, boxes: Sequence[Box]) -> list[_Text]:
        lines = [self._text(f"zone {zone}" if zone else "no zone", BOLD)]
        for box in boxes:
            lines += self._box(box)
        return lines

    def _box(self, box: Box) -> list[_Text]:
        across, down, corners = ("─", "│", "┌┐└┘") if self.screen.has_colour else ("-", "|", "++++")
        tone = {"dead": (RED, DIM), "draining": (YELLOW,)}.get(box.state, ())
        title = f"{across} {box.ip}{f' {box.state}' if box.state else ''} "
        inside = BOX_WIDTH - 4
        top = f"{corners[0]}{title}{across * (BOX_WIDTH - 2 - len(title))}{corners[1]}"
        bottom = f"{corners[2]}{across * (BOX_WIDTH - 2)}{corners[3]}"
        dots = [self._dot(dot) for dot in box.dots] or [_Text(plain="-", shown=self.screen.colour("-", DIM))]
        edge = self.screen.colour(down, *tone) if tone else down
        lines = [self._text(top, *tone)]
        for row in _rows(dots, inside):
            plain = " ".join(dot.plain for dot in row)
            shown = " ".join(dot.shown for dot in row) + " " * (inside - len(plain))
            lines.append(_Text(plain="", shown=f"{edge} {shown} {edge}"))
        return [*lines, self._text(bottom, *tone)]

    def _dot(self, dot: Dot) -> _Text:
        if not self.screen.has_colour:
            text = f"{dot.service[:1].upper()}{SIGNS.get(dot.state, '')}"
            return _Text(plain=text, shown=text)
        glyph = GLYPHS.get(dot.state, "■")
        return _Text(plain=glyph, shown=self.screen.colour(glyph, self._colour(dot)))

    def _colour(self, dot: Dot) -> str:
        key = (dot.service, dot.revision)
        return self._colours.setdefault(key, VERSION_COLOURS[len(self._colours) % len(VERSION_COLOURS)])

    def _legend(self, nodes: NodesSight) -> list[str]:
        dots = {(dot.service, dot.revision): dot for box in nodes.alive for dot in box.dots}
        states = {dot.state for box in nodes.alive for dot in box.dots} - {"RUNNING"}
        kinds = [
            f"{self._dot(replace(dot, state='RUNNING')).shown} {dot.service} {self.names.of(dot.revision)}"
            for _, dot in sorted(dots.items())
        ]
        signs = GLYPHS if self.screen.has_colour else {state: f"G{sign}" for state, sign in SIGNS.items()}
        meanings = {"STARTING": "starts", "STOPPING": "stops", "MOVING": "moves away"}
        kinds += [f"{signs[state]} {meanings[state]}" for state in sorted(states) if state in meanings]
        return [f"{'':9}{'   '.join(kinds)}"] if kinds else []

    def _text(self, text: str, *tone: str) -> _Text:
        padded = text.ljust(BOX_WIDTH)
        return _Text(plain=padded, shown=self.screen.colour(padded, *tone) if tone else padded)


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A text as it is measured, and as it is shown with colours."""

    plain: str
    shown: str


def _rows(dots: Iterable[_Text], width: int) -> list[list[_Text]]:
    rows: list[list[_Text]] = [[]]
    used = 0
    for dot in dots:
        if used and used + 1 + len(dot.plain) > width:
            rows.append([])
            used = 0
        rows[-1].append(dot)
        used += len(dot.plain) + (1 if used else 0)
    return rows
