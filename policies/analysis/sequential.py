"""Sequential comparison of two rates: valid however often one looks, exact for any counts, zero included.

The question is whether events (failed requests, slow answers) happen more often per request at the candidate
than at the stable revision. If not, then each event is the candidate's with a chance of at most its share of the
requests, whatever the rate is and however it changes with time. So for any ratio r > 1

    E(r) = product over windows of  r^x / (1 + (r - 1) p)^n

with x of n events at the candidate, whose share of the requests is p, has an expectation of at most 1: it is the
likelihood ratio of the binomial distribution of x given n, and requests drawn without replacement vary less than
that (Hoeffding 1963, theorem 4), so it also holds for frequent events. For the share that routing gives E(r) is a
test martingale; with the share as counted it differs from one by a factor that is near 1 when events are rare, and
errs on the safe side when they are not. A mixture over r, fixed in advance, is a mixture likelihood ratio test (Robbins
1970; mSPRT of Johari, Pekelis and Walsh 2015, 2022). By Ville's inequality an equal candidate ever reaches
E >= 1 / alpha with a chance of at most alpha, over all looks together.

Everything is a function of the sums of each window: nothing is remembered between looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

SUSPICIOUS = math.log(20)
"""Evidence that makes a candidate wait for more: an equal one ever shows it with a chance of 5%."""

_CENTRE, _SPREAD = math.log(2.2), 0.7
"""Effects that are looked for first: most regressions that matter double or triple a rate. The price of having
looked in the wrong place is small, for those far away show themselves soon or must be looked at for long anyway."""

_STEPS = tuple(0.05 * 1.4**step for step in range(13))
"""Logarithms of the ratios in the mixture, from 1.05 to 17. A ratio between two of them costs at most 3% more."""

_SIGNED_STEPS = {sign: tuple(sign * step for step in _STEPS) for sign in (1, -1)}
_ODDS = {sign: tuple(math.expm1(sign * step) for step in _STEPS) for sign in (1, -1)}


def _weights() -> tuple[float, ...]:
    raw = [step * math.exp(-(((step - _CENTRE) / _SPREAD) ** 2) / 2) for step in _STEPS]
    return tuple(math.log(weight / sum(raw)) for weight in raw)


_LOG_WEIGHTS = _weights()

WIDEST = math.log(1000)
"""Ratios are looked for between a thousandth and a thousand."""

_DEPTH = 1.5
"""Evidence at the estimate itself is about so far below 0: what a mixture pays for not knowing the effect."""

_ROUNDING = 1e-6
"""Far more than sums of counts in the millions are rounded by, far less than what a look adds."""

_CLOSE = 0.01
"""A bound is found when the evidence against it is that near to the limit: less than any digit shown."""

_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """One window's counts. Not whole numbers when clients are the unit."""

    candidate: float
    """Requests."""
    stable: float
    candidate_events: float
    stable_events: float

    @property
    def mirrored(self) -> Stratum:
        """Return the same with the revisions' roles changed."""
        return Stratum(
            candidate=self.stable,
            stable=self.candidate,
            candidate_events=self.stable_events,
            stable_events=self.candidate_events,
        )


def log_evidence(strata: Iterable[Stratum], ratio: float = 1.0) -> float:
    """Return log E against "the candidate's rate is at most `ratio` times the stable revision's".

    0 when nothing speaks against it, below 0 when something speaks for it.
    """
    trials = []
    hits = 0.0
    for stratum in strata:
        if stratum.candidate <= 0 or stratum.stable <= 0:
            continue
        chance = ratio * stratum.candidate / (ratio * stratum.candidate + stratum.stable)
        trials.append((stratum.candidate_events + stratum.stable_events, chance))
        hits += stratum.candidate_events
    return mixture(hits, trials)


def mixture(hits: float, trials: Sequence[tuple[float, float]], sign: int = 1) -> float:
    """Return the log of the mixture likelihood ratio of `hits` in all `trials`, each (how many, chance of a hit).

    With sign -1 against "hits come at least as often as these chances".
    """
    logs = [weight + hits * step for weight, step in zip(_LOG_WEIGHTS, _SIGNED_STEPS[sign], strict=True)]
    odds, log1p, exp = _ODDS[sign], math.log1p, math.exp
    for count, chance in trials:
        if count:
            logs = [log - count * log1p(odd * chance) for log, odd in zip(logs, odds, strict=True)]
    highest = max(logs)
    return highest + math.log(sum([exp(log - highest) for log in logs]))


def stays_below(log_e: float, limit: float) -> bool:
    """Return whether evidence `log_e` stays below a limit above 0 by however much clusters dilute its counts.

    Counts divided by d >= 1 divide the logarithm of each likelihood ratio by d, and the mean of d-th roots is at most
    the d-th root of the mean (Jensen), so that the mixture's is at most log E / d. The margin is for rounding.
    """
    return log_e < limit - _ROUNDING


def ratio_of_rates(strata: Sequence[Stratum]) -> float | None:
    """Return the estimated ratio of the rates (Mantel and Haenszel 1959), None when nothing is to be divided by."""
    above = below = 0.0
    for stratum in strata:
        both = stratum.candidate + stratum.stable
        if stratum.candidate > 0 and stratum.stable > 0:
            above += stratum.candidate_events * stratum.stable / both
            below += stratum.stable_events * stratum.candidate / both
    return above / below if below else None


def bounds(strata: Sequence[Stratum], alpha: float) -> tuple[float | None, float | None]:
    """Return ratios that the true one is surely above and surely below, each with a chance of `alpha` to err.

    A confidence sequence: the ratios that the test has not rejected. None: no such bound within 1/1000 to 1000.
    """
    limit = -math.log(alpha)
    low = _last_rejected(strata, limit)
    high = _last_rejected([stratum.mirrored for stratum in strata], limit)
    return (None if low is None else math.exp(low), None if high is None else math.exp(-high))


def _last_rejected(strata: Sequence[Stratum], limit: float) -> float | None:
    """Return the logarithm of the largest ratio that is rejected as too low, None when the smallest is not."""
    ratio = ratio_of_rates(strata)
    if ratio == 0 or all(stratum.candidate_events <= 0 for stratum in strata):
        return None
    events = [sum(stratum.candidate_events for stratum in strata), sum(stratum.stable_events for stratum in strata)]
    high = WIDEST if ratio is None else min(math.log(ratio), WIDEST)
    return crossing(
        lambda log: excess(log_evidence(strata, math.exp(log)), limit),
        high,
        math.sqrt(2 * (limit + 1) * sum(1 / (count + 0.5) for count in events)),
    )


def excess(log_e: float, limit: float) -> float:
    """Return by how much evidence is above a limit, on a scale on which it is nearly linear in the effect.

    Evidence grows with the square of the distance from the estimate, so its root is what interpolation can follow.
    """
    return math.sqrt(max(log_e + _DEPTH, 0.0)) - math.sqrt(limit + _DEPTH)


def crossing(excess: Callable[[float], float], high: float, stride: float) -> float | None:
    """Return where the falling `excess` crosses 0 below `high`, from the side where it is positive; None: nowhere.

    `stride` is a guess of how far below. What is returned is always on the positive side, however precise.
    """
    below = excess(high)
    if below >= 0:
        return high
    low = high
    while True:
        low = max(low - stride, -WIDEST)
        above = excess(low)
        if above >= 0:
            break
        if low <= -WIDEST:
            return None
        high, below = low, above
    return _narrowed(excess, (low, above), (high, below))


def _narrowed(excess: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]) -> float:
    """Return the crossing between two points (place, excess): the Illinois method of regula falsi."""
    (left, above), (right, below) = low, high
    best = left
    for _ in range(_ROUNDS):
        middle = (left * below - right * above) / (below - above)
        found = excess(middle)
        if found >= 0:
            left, above, below = middle, found, below / 2
            best = middle
            if found < _CLOSE:
                break
        else:
            right, below, above = middle, found, above / 2
    return best


def last_above(excess: Callable[[int], float], high: int, least: int) -> int | None:
    """Return the largest whole place below `high` at which the falling `excess` is not negative; None: there is none.

    `high` is taken to be below. The search follows the line through the ends of its bracket, and is a bisection
    where that is no help.
    """
    below, stride = -1.0, 8
    while True:
        low = high - stride
        if low < least:
            return None
        above = excess(low)
        if above >= 0:
            break
        high, below, stride = low, above, 2 * stride
    is_guess = True
    while high - low > 1:
        middle = low + round((high - low) * above / (above - below)) if is_guess else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        found = excess(middle)
        is_guess = not is_guess or high - low <= 4
        if found >= 0:
            low, above = middle, found
        else:
            high, below = middle, found
    return low
