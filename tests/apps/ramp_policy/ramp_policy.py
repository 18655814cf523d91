"""Policies as another package brings them: one that is of use, and some that are not."""

import os
import time
from contextlib import suppress

from policies.view import view_of
from specs.analysis import Judgement, Outcome
from specs.wishes import Aim, Apportion, GoBack, Prefer, Stand

LABEL = "ramp.example.com/percent-per-minute"
PRICE = "example.com/price-per-hour"


def ramp(world, service):
    """Give the candidate so many percent more with each minute, as a label of the service says."""
    memory = world.memory.services[service]
    minutes = (world.now - memory.rollout.started_at).total_seconds() / 60
    speed = float(memory.wanted.labels.get(LABEL, "10"))
    return Aim(weight=min(10_000, int(minutes * speed * 100)), message=f"{speed:g}% a minute")


def thrifty(world, service):
    """Have fewer replicas in zones whose cheapest node costs more, as a label of the nodes says, and none above 10."""
    prices = {}
    for node in world.observed.nodes:
        if node.is_alive and node.zone:
            prices.setdefault(node.zone, []).append(float(node.labels.get(PRICE, "1")))
    cheapest = {zone: min(found) for zone, found in prices.items()}
    weights = {zone: 0 if price > 10 else max(1, round(100 / price)) for zone, price in cheapest.items()}
    return Apportion(zones=weights, message=", ".join(f"{zone} costs {price:g}" for zone, price in cheapest.items()))


def quiet(world, situation):
    """Empty nothing by day (UTC), no node with more than eight replicas, and spot nodes last."""
    if 8 <= world.now.hour < 20:
        return Stand(message="nothing is emptied from 08:00 to 20:00")
    busy = [node for node, count in situation.replicas.items() if count > 8]
    machines = situation.problem.machines
    paid = [machine.id for machine in machines if machine.labels.get("ray.io/market-type") != "spot"]
    return Prefer(keep=tuple(busy), first=tuple(paid), message="spot nodes last")


def budget(world, service):
    """Fail a candidate that failed more than five requests."""
    comparison = world.memory.services[service].comparison
    failed = sum(window.candidate.errors for window in comparison.past)
    outcome = Outcome.FAILING if failed > 5 else Outcome.PASSING
    return Judgement(outcome=outcome, message=f"{failed} failed requests")


def curfew(world, service):
    """Take candidates back that are still on their way at night."""
    view = view_of(world, service)
    if view.now.hour >= 22 and view.memory.candidate:
        return GoBack(message="nothing moves after 22:00")
    return Stand()


def hangs(world, service):
    """Never answer."""
    while True:
        time.sleep(1)


def raises(world, service):
    """Raise for one service, answer for all others."""
    if service == "chat":
        raise KeyError("no such thing\nand\x1b[2J more")
    return Stand(message="fine")


def exits(world, service):
    """End the process."""
    os._exit(7)


def chatty(world, service):
    """Print where answers are expected, and spoil what it was given."""
    print("\n{not json}" * 100)
    world.memory.services.clear()
    object.__setattr__(world, "now", None)
    return Aim(weight=100, message=str(sorted(name for name in os.environ if "HELIOSTAT" in name)))


def forger(world, service):
    """Write to every pipe that there is, deeply nested."""
    for descriptor in range(3, 20):
        with suppress(OSError):
            os.write(descriptor, b"[" * 200_000 + b"\n")
    return Aim(weight=100)
