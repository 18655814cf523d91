"""Random clusters to compact: kinds of nodes, services of several sizes, placed as months of changes leave them."""

from __future__ import annotations

from collections import Counter
from random import Random

from policies.compaction.problem import Crowd, Machine, Problem, fits, in_units
from specs.selectors import matches

ZONE = "ray.io/availability-zone"
MARKET = "ray.io/market-type"
GIB = 2.0**30

KINDS = (
    ({"CPU": 8, "memory": 32 * GIB}, 1.0),
    ({"CPU": 16, "memory": 64 * GIB}, 2.0),
    ({"CPU": 16, "memory": 128 * GIB, "GPU": 4}, 6.0),
    ({"CPU": 8, "memory": 64 * GIB, "GPU": 1}, 2.0),
)
SIZES = (
    {"CPU": 0.5, "memory": 1 * GIB},
    {"CPU": 1, "memory": 2 * GIB},
    {"CPU": 2, "memory": 10 * GIB},
    {"CPU": 3, "memory": 6 * GIB},
    {"CPU": 5, "memory": 9 * GIB},
    {"CPU": 1, "GPU": 0.25, "memory": 4 * GIB},
    {"CPU": 2, "GPU": 1, "memory": 24 * GIB},
    {"CPU": 4, "GPU": 2, "memory": 40 * GIB},
)


def random_cluster(seed: int, *, machines: int | None = None, replicas: int | None = None) -> Problem:
    """Return a cluster of 3 to 40 machines (or so many) that is a quarter to four fifths full."""
    dice = Random(seed)
    count = machines or dice.randint(3, 40)
    is_priced = dice.random() < 0.5
    kinds = dice.sample(KINDS, dice.randint(1, 3))
    zones = ["a", "b", "c"][: dice.randint(1, 3)]
    scale = 1 if replicas is None else 3
    made = tuple(_machine(dice, number, kinds, zones, scale, is_priced=is_priced) for number in range(count))
    free = {machine.id: Counter(machine.room) for machine in made}
    crowds: list[Crowd] = []
    fill = dice.uniform(0.25, 0.8)
    placed = 0
    for number in range(replicas or 12 * count):
        crowd = _crowd(dice, number, zones, dice.randint(1, 12) if replicas is None else dice.randint(5, 40))
        crowd = _placed(dice, crowd, made, free)
        placed += sum(crowd.places.values())
        if crowd.places:
            crowds.append(crowd)
        if (replicas is None and _used(made, free) > fill) or (replicas is not None and placed >= replicas):
            break
    return Problem(machines=made, crowds=tuple(crowds))


def _machine(
    dice: Random,
    number: int,
    kinds: list[tuple[dict[str, float], float]],
    zones: list[str],
    scale: int,
    *,
    is_priced: bool,
) -> Machine:
    resources, price = dice.choice(kinds)
    resources = {name: amount * scale for name, amount in resources.items()}
    market = dice.choice(["spot", "on-demand"])
    return Machine(
        id=f"m{number:03}",
        room=in_units(resources),
        price=(price * (0.4 if market == "spot" else 1.0)) if is_priced else 1.0,
        labels={ZONE: dice.choice(zones), MARKET: market},
        kept="somebody else's actor runs there" if dice.random() < 0.08 else "",
    )


def _crowd(dice: Random, number: int, zones: list[str], count: int) -> Crowd:
    selector = {}
    if dice.random() < 0.35:
        selector[ZONE] = dice.choice(zones)
    if dice.random() < 0.15:
        selector[MARKET] = dice.choice(["spot", "!spot"])
    return Crowd(
        name=f"service-{number:03}#Main",
        needs=in_units(dice.choice(SIZES)),
        selector=selector,
        per_node=dice.choice([1, 2, 3]) if dice.random() < 0.1 else None,
        places={"?": count},
        reserve=1 if dice.random() < 0.2 else 0,
    )


def _placed(dice: Random, crowd: Crowd, machines: tuple[Machine, ...], free: dict[str, Counter[str]]) -> Crowd:
    """Put replicas where there is room, anywhere: that is what fragmented means."""
    places: Counter[str] = Counter()
    for _ in range(crowd.places["?"]):
        open_ = [
            machine.id
            for machine in machines
            if matches(machine.labels, crowd.selector)
            and fits(crowd.needs, free[machine.id])
            and (crowd.per_node is None or places[machine.id] < crowd.per_node)
        ]
        if not open_:
            break
        place = dice.choice(open_)
        places[place] += 1
        free[place].subtract(crowd.needs)
    return Crowd(
        name=crowd.name,
        needs=crowd.needs,
        selector=crowd.selector,
        per_node=crowd.per_node,
        places=dict(places),
        reserve=crowd.reserve,
    )


def _used(machines: tuple[Machine, ...], free: dict[str, Counter[str]]) -> float:
    total = sum(machine.room["CPU"] for machine in machines)
    return 1 - sum(free[machine.id]["CPU"] for machine in machines) / total
