"""The gateway's own zone first: which of a service's lanes are near, and how much each of their replicas takes.

The last two words of a service's row, `near:THRESHOLD:LANE/ROOM:THRESHOLD:LANE/ROOM...` and `far:...`, so that they
change together with the weights; none when nothing is to be preferred. HAProxy knows how many requests each lane
holds. It takes a near lane while that is less than its servers times ROOM, then a far one by the same rule, and goes by
the service's weights when both are full: then each zone has again what it had without a preference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from specs.observed import Endpoint
from specs.placement import MOST_SITES
from specs.routes import FULL, CellWeight, ServiceRoute

LOAD = "load"
"""The stick table with what each lane holds."""

NEAR, FAR = "near", "far"

FIRST_PLACE = 2
"""The part at which the first threshold stands, counted from 1."""

MOST_PLACES = MOST_SITES
"""Cells on either side; a service that has more of them, while some are put in others' place, has no preference."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A lane takes the dice below `threshold` that no earlier one takes, up to `room` requests per server."""

    threshold: int
    lane: str
    room: int


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One service's words: the lanes in the gateway's zone, and all others. Both are empty without a preference."""

    near: tuple[Place, ...] = ()
    far: tuple[Place, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words that HAProxy reads."""
        return (_word(NEAR, self.near), _word(FAR, self.far)) if self.near else ()


def _word(mark: str, places: Iterable[Place]) -> str:
    return ":".join([mark, *(part for one in places for part in (str(one.threshold), f"{one.lane}/{one.room}"))])


def take_preference(words: list[str]) -> Preference:
    """Take the words from the end of a row's, if they are there. Raises ValueError when they were not written by us."""
    if len(words) < 2 or not words[-1].startswith(f"{FAR}:") or not words[-2].startswith(f"{NEAR}:"):
        return Preference()
    far, near = words.pop(), words.pop()
    return Preference(near=_places(near), far=_places(far))


def _places(word: str) -> tuple[Place, ...]:
    _, *parts = word.split(":")
    found = []
    for threshold, place in zip(parts[::2], parts[1::2], strict=True):
        lane, _, room = place.partition("/")
        found.append(Place(threshold=int(threshold), lane=lane, room=int(room)))
    return tuple(found)


def make_preference(
    service: ServiceRoute, lanes: Mapping[str, str], zone: str | None, rooms: Mapping[str, int]
) -> Preference:
    """Return the words of a service whose cells have leased `lanes`; `rooms` are requests per replica, by cell.

    Only where requests have a choice: some of the cells that get any are in `zone`, and some are not. Those of a side
    share by their weights. One in the zone whose room is not known is not preferred.
    """
    weighted = [cell for cell in service.cells if cell.weight > 0]
    near = [cell for cell in weighted if zone and cell.zone == zone and rooms.get(cell.cell, 0) > 0]
    far = [cell for cell in weighted if cell.zone != zone]
    if not service.may_prefer_zone or not near or not far or max(len(near), len(far)) > MOST_PLACES:
        return Preference()
    return Preference(near=_shared(near, lanes, rooms), far=_shared(far, lanes, rooms))


def _shared(cells: Sequence[CellWeight], lanes: Mapping[str, str], rooms: Mapping[str, int]) -> tuple[Place, ...]:
    """Divide the dice by weight; the last threshold is `FULL`."""
    sums = list(accumulate(cell.weight for cell in cells))
    return tuple(
        Place(threshold=reached * FULL // sums[-1], lane=lanes[cell.cell], room=rooms.get(cell.cell, 0))
        for reached, cell in zip(sums, cells, strict=True)
    )


def room_of(endpoints: Iterable[Endpoint]) -> int:
    """Return what each of a cell's replicas takes at once; 0 when that of one is not known, or there is none."""
    return min((endpoint.room for endpoint in endpoints), default=0)
