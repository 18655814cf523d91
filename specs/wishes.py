"""What a policy may ask for. A wish is small on purpose: what the engine makes of it stays within the invariants.

Policies of other packages run in processes of their own and answer with documents; `read_wish` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from specs.analysis import Judgement, Outcome
from specs.routes import FULL

LONGEST_MESSAGE = 500
"""Wishes are told in status and events: a policy must not fill them."""

MOST_REPLICAS = 100_000
MOST_DEPLOYMENTS = 100
MOST_ZONES = 50
MOST_NODES = 10_000
LOWEST_PRICE, HIGHEST_PRICE = 0.001, 1_000_000.0
"""Further apart than that, and a solver that counts in fractions loses the lower ones."""

LONGEST_NAME = 253
MOST_WEIGHT = 1000


class PolicyKind(StrEnum):
    """What a policy decides about."""

    ROLLOUT = "rollout"
    """How far a new revision is to go now."""
    ANALYSIS = "analysis"
    """What the requests say about a new revision."""
    ROLLBACK = "rollback"
    """Whether a new revision is to be taken back."""
    PLACEMENT = "placement"
    """Where replicas are to be."""
    COMPACTION = "compaction"
    """Which nodes are to be emptied."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Rollout: the share of requests that the candidate is to be on its way to.

    `weight` is in basis points (10000 is everything, and ends the policy's part). `replicas` are how many the
    candidate is to have at least, by deployment, beyond what the weight needs. Both are reached only as far as
    ready replicas and the budget allow.
    """

    weight: int
    replicas: Mapping[str, int] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Any kind: nothing is to change now, and why."""

    message: str = ""


@dataclass(frozen=True, kw_only=True)
class GoBack:
    """Rollback: the candidate is to be taken back and quarantined."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Apportion:
    """Placement: how a service's replicas are to be divided over its zones and markets.

    `zones` are weights, 1 where a zone is not named: a zone of 3 is to have three times the replicas of one of 1, and
    one of 0 none at all. Nothing named: even. `on_demand` is the percentage of replicas that are to be on nodes that
    stay, at least. How many replicas there are is not the policy's, nor which zones the spec allows.
    """

    zones: Mapping[str, int] = field(default_factory=dict)
    on_demand: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Prefer:
    """Compaction: which nodes are to be left alone, which are to be emptied first, and what they are to count for.

    Nodes are named by their ids, `prices` are in any unit and stand for those of the ClusterPolicy when plans are
    compared. What may be emptied at all, and what is checked before a node is, is not the policy's.
    """

    keep: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


Wish = Aim | Stand | GoBack | Judgement | Apportion | Prefer


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a policy of another package said about one service, or why it said nothing."""

    policy: str
    """Kind and name, such as `rollout.ramp`."""
    service: str
    revision: str
    """The candidate that it was asked about; "" for what is not about one."""
    at: datetime
    """The time of the world that it looked at."""
    wish: Wish | None = None
    problem: str = ""


def policy_id(kind: PolicyKind, name: str) -> str:
    """Return what a policy is called in settings, entry points, status and metrics."""
    return f"{kind.value}.{name}"


def kind_of(policy: str) -> PolicyKind:
    """Return the kind of a policy that is called as in `policy_id`."""
    return PolicyKind(policy.partition(".")[0])


def name_of(policy: str) -> str:
    """Return what specs call a policy that is called as in `policy_id`."""
    return policy.partition(".")[2]


def with_message(text: str, message: str) -> str:
    """Return a text about a wish, with what its policy says of it."""
    return f"{text}: {message}" if message else text


def write_wish(wish: object) -> dict[str, Any]:
    """Return a wish as a document. Raises TypeError for what is none."""
    match wish:
        case Aim():
            return {"aim": {"weight": wish.weight, "replicas": dict(wish.replicas), "message": wish.message}}
        case Stand():
            return {"stand": {"message": wish.message}}
        case GoBack():
            return {"goBack": {"message": wish.message}}
        case Judgement():
            return {"judgement": {"outcome": str(wish.outcome), "message": wish.message, "needed": wish.needed}}
        case Apportion():
            return {"apportion": {"zones": dict(wish.zones), "onDemand": wish.on_demand, "message": wish.message}}
        case Prefer():
            prices = {node: float(price) for node, price in wish.prices.items()}
            nodes = {"keep": list(wish.keep), "first": list(wish.first), "prices": prices}
            return {"prefer": {**nodes, "message": wish.message}}
        case _:
            raise TypeError(f"it answered with a {type(wish).__name__}, which is no wish")


ALLOWED = {
    PolicyKind.ROLLOUT: ("aim", "stand"),
    PolicyKind.ANALYSIS: ("judgement", "stand"),
    PolicyKind.ROLLBACK: ("goBack", "stand"),
    PolicyKind.PLACEMENT: ("apportion", "stand"),
    PolicyKind.COMPACTION: ("prefer", "stand"),
}
"""Which wishes make sense where."""


class NoWish(ValueError):
    """A document that is no wish; the text says why."""


def read_wish(kind: PolicyKind, document: object) -> Wish:
    """Return the wish that a document stands for. Raises NoWish for anything else, whatever it is."""
    if not isinstance(document, dict) or len(document) != 1:
        raise NoWish("its answer is no wish")
    [(name, fields)] = document.items()
    if name not in ALLOWED[kind]:
        raise NoWish(f"a {kind.value} policy may answer with {' or '.join(ALLOWED[kind])}, not with {_short(name)}")
    if not isinstance(fields, dict):
        raise NoWish(f"its {name} is {_short(fields)}")
    message = fields.get("message", "")
    if not isinstance(message, str):
        raise NoWish(f"its message is {_short(message)}, not a text")
    return _made(str(name), fields, one_line(message))


def _made(name: str, fields: Mapping[Any, Any], message: str) -> Wish:
    match name:
        case "aim":
            weight = _whole("weight", fields.get("weight"), FULL)
            replicas = _counts("replicas", fields.get("replicas", {}), MOST_DEPLOYMENTS, MOST_REPLICAS)
            return Aim(weight=weight, replicas=replicas, message=message)
        case "apportion":
            zones = _counts("zones", fields.get("zones", {}), MOST_ZONES, MOST_WEIGHT)
            return Apportion(zones=zones, on_demand=_whole("onDemand", fields.get("onDemand", 0), 100), message=message)
        case "prefer":
            keep, first = (_names(name, fields.get(name, [])) for name in ("keep", "first"))
            return Prefer(keep=keep, first=first, prices=_prices(fields.get("prices", {})), message=message)
        case "goBack":
            return GoBack(message=message)
        case "judgement":
            needed = _whole("needed", fields.get("needed", 0), 10**9)
            return Judgement(outcome=_outcome(fields.get("outcome")), message=message, needed=needed)
        case _:
            return Stand(message=message)


def _outcome(value: object) -> Outcome:
    try:
        return Outcome(value)  # type: ignore[arg-type]  # Anything may stand there: that is what is found out.
    except ValueError:
        raise NoWish(f"its outcome is {_short(value)}, not one of {', '.join(Outcome)}") from None


def _counts(what: str, value: object, most: int, highest: int) -> Mapping[str, int]:
    """Return whole numbers by name, `most` of them at most."""
    if not isinstance(value, dict) or len(value) > most or not all(map(_is_name, value)):
        raise NoWish(f"its {what} are {_short(value)}, not numbers by name")
    return {name: _whole(f"{what} of {_short(name)}", count, highest) for name, count in sorted(value.items())}


def _names(what: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_NODES or not all(map(_is_name, value)):
        raise NoWish(f"its {what} is {_short(value)}, not a list of nodes")
    return tuple(dict.fromkeys(value))


def _prices(value: object) -> Mapping[str, float]:
    if not isinstance(value, dict) or len(value) > MOST_NODES or not all(map(_is_name, value)):
        raise NoWish(f"its prices are {_short(value)}, not numbers by node")
    return {node: _price(node, price) for node, price in sorted(value.items())}


def _price(node: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST_PRICE <= value <= HIGHEST_PRICE:
        limits = f"{LOWEST_PRICE:g} to {HIGHEST_PRICE:g}"
        raise NoWish(f"its price of {_short(node)} is {_short(value)}, not a number from {limits}")
    return float(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def _whole(what: str, value: object, most: int) -> int:
    """Return a whole number from 0 to `most`; True is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise NoWish(f"its {what} is {_short(value)}, not a whole number from 0 to {most}")
    return value


def one_line(text: str) -> str:
    """Return a text that is safe to show in one line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * LONGEST_MESSAGE])
    return " ".join(printable.split())[:LONGEST_MESSAGE]


def _short(value: object) -> str:
    try:
        text = one_line(repr(value))
    except Exception:
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_advice(asked: Advice, answer: object) -> Advice:
    """Return what was asked for with the answer that came: a wish, or the problem that there is none."""
    if isinstance(answer, dict) and answer.keys() == {"problem"}:
        return replace(asked, problem=one_line(str(answer["problem"])))
    try:
        return replace(asked, wish=read_wish(kind_of(asked.policy), answer))
    except NoWish as error:
        return replace(asked, problem=str(error))
