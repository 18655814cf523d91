"""The whole upper end at once: the further out an answer lies, the more it says of a tail that grew.

A bound near the quantile sees that more answers take longer than it, and nothing of how much longer. Where a heavy
tail becomes heavier, the ratio of the two revisions' shares grows with the distance, and what lies far out is rare
but tells. So the upper end is cut into bands, each half as rare as the one before, by what both revisions answered
together. If they are equal, an answer in a band is the candidate's with a chance of its share, whatever the band; for
any ratios r the product over the bands of  r^x / (1 + (r - 1) p)^n  is then evidence like that of `sequential`, and so
is its mixture over how fast the ratios grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.analysis.sequential import Stratum

RARER = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
"""Where the bands begin, in parts of the share above the quantile."""

_DISTANCES = tuple(math.log2(2 / (0.75 * part)) for part in RARER)
"""How far out a band lies, in halvings from where the first one begins; its middle counts."""

_GROWTHS = (0.1, 0.15, 0.22, 0.32, 0.47)
"""By how much the ratio's logarithm grows with each halving. 0.22 is a lognormal tail whose p99 rises by 30%."""


def shares(quantile: float) -> tuple[float, ...]:
    """Return the shares below which the bands begin."""
    return tuple(1 - part * (1 - quantile) for part in RARER)


def log_evidence(above: Sequence[Sequence[Stratum]]) -> float:
    """Return log E against "no band has more of the candidate's answers than its share".

    `above` holds per bound of the bands, from the lowest, what lies above it in each window.
    """
    hits = 0.0
    trials: list[tuple[float, float, float]] = []
    for distance, lower, upper in zip(_DISTANCES, above, [*above[1:], None], strict=True):
        for number, stratum in enumerate(lower):
            if stratum.candidate <= 0 or stratum.stable <= 0:
                continue
            further = upper[number] if upper is not None else None
            mine = stratum.candidate_events - (further.candidate_events if further else 0)
            count = mine + stratum.stable_events - (further.stable_events if further else 0)
            if count:
                hits += distance * mine
                trials.append((count, distance, stratum.candidate / (stratum.candidate + stratum.stable)))
    logs = [hits * growth - _expected(trials, growth) for growth in _GROWTHS]
    highest = max(logs)
    return highest + math.log(sum([math.exp(log - highest) for log in logs]) / len(logs))


def _expected(trials: Sequence[tuple[float, float, float]], growth: float) -> float:
    log1p, expm1 = math.log1p, math.expm1
    return sum([count * log1p(expm1(growth * distance) * chance) for count, distance, chance in trials])
