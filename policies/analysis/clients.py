"""How much less events say that come in clusters, one client's together (sticky traffic).

What is random is which revision a client is on, not which of its requests fail: a client with a broken token fails
them all, wherever the hash put it. So clients are what counts. They come in groups by a second hash, each group a
sample of its revision's clients, and how unevenly the events lie over groups gives the variance that clusters nested
in them cause, whatever the clusters are. A binomial test on counts divided by how much that variance exceeds that of
independent events, the design effect, is one on so many independent events (Rao and Scott 1992).

The variance is that of the comparison: both revisions' deviations, weighted as they enter the difference. A pooled
one would be that of the larger side, which says nothing of the one bad client that a small candidate happens to have.
A group's deviation is that from the rate of the *other* groups (jackknife, CR3: Bell and McCaffrey 2002), for a client
with most of the requests makes the rate itself; and it is summed over the windows before it is squared, for a client
that fails in one fails in the next, too.

Looking often stays sound. Clients that stay make the course of the comparison smoother than that of independent events
with the same variance: correlations between two looks are larger, and then crossing a bound ever is less likely
(Slepian 1962), so that what holds for the mixture martingale of independent events holds here, as nearly as sums over
clients are normal. Where there are few, the binomial's longer tail and the jackknife err on the safe side; simulated
in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from specs.evidence import CLIENT_GROUPS, Evidence, Window

Counted = Callable[[Evidence], tuple[float, float]]
"""Returns (events, out of how many)."""


def tells_clients_apart(window: Window) -> bool:
    """Return whether both revisions' requests are known by groups of clients."""
    sides = window.candidate, window.stable
    return all(not side.requests or any(group.requests for group in side.clients) for side in sides)


def design_effect(windows: Iterable[Window], count: Counted) -> float:
    """Return by how much the variance of a comparison exceeds that of independent events; at least 1."""
    clustered, independent = _Variance(), _Variance()
    for window in windows:
        mine, theirs = _Deviations.of(window.candidate, count), _Deviations.of(window.stable, count)
        if not mine.trials or not theirs.trials:
            continue
        share = mine.trials / (mine.trials + theirs.trials)
        clustered.add(0, [(1 - share) * one for one in mine.groups])
        clustered.add(1, [share * one for one in theirs.groups])
        independent.sum += (1 - share) ** 2 * mine.binomial + share**2 * theirs.binomial
    return clustered.over(independent)


def own_effect(parts: Iterable[Evidence], count: Counted) -> float:
    """Return the same for one revision's rate by itself, as where it is held against a limit."""
    clustered, independent = _Variance(), _Variance()
    for part in parts:
        deviations = _Deviations.of(part, count)
        clustered.add(0, deviations.groups)
        independent.sum += deviations.binomial
    return clustered.over(independent)


@dataclass(frozen=True, kw_only=True)
class _Deviations:
    """How many events more than at the others' rate each group of a revision has; `binomial` is independent ones'."""

    groups: Sequence[float]
    trials: float
    binomial: float

    @classmethod
    def of(cls, evidence: Evidence, count: Counted) -> _Deviations:
        groups = [count(group) for group in evidence.clients]
        events, trials = sum([one for one, _ in groups]), sum([many for _, many in groups])
        # Events that no group saw may all be one client's.
        lost = max(count(evidence)[0] - events, 0.0)
        deviations = [_beyond_the_others(one, many, events - one, trials - many) for one, many in groups]
        every = max(trials, events + lost)
        binomial = (events + lost) * (1 - (events + lost) / every) if every else 0.0
        return cls(groups=(*deviations, lost), trials=trials, binomial=binomial)


def _beyond_the_others(events: float, trials: float, other_events: float, other_trials: float) -> float:
    return events - trials * other_events / other_trials if other_trials > 0 else events


class _Variance:
    """Sums per revision and group over windows, and what their squares come to."""

    def __init__(self) -> None:
        self._groups = ([0.0] * (CLIENT_GROUPS + 1), [0.0] * (CLIENT_GROUPS + 1))
        self.sum = 0.0

    def add(self, revision: int, deviations: Sequence[float]) -> None:
        mine = self._groups[revision]
        for group, deviation in enumerate(deviations):
            mine[group] += deviation

    def over(self, independent: _Variance) -> float:
        clustered = sum([deviation * deviation for groups in self._groups for deviation in groups])
        return max(1.0, clustered / independent.sum) if independent.sum > 0 else 1.0
