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
clients are normal.

Few clients may be alike by chance: two that fail everything, alone on a small candidate, do not deviate from each
other. So each revision is taken to have one more group, as large as its others are on average, with the rate of the
other revision: where both are equal, one more could well be like those. Against clients that fail all or nothing
that counts about as many requests as there are clients; among 64 groups it weighs little. Simulated with 5 to 30
clients in the tests and the benchmark.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import add

from policies.once import once
from specs.evidence import CLIENT_GROUPS, COARSE, Evidence, Window

Counted = Callable[[Evidence], tuple[float, float]]
"""Returns (events, out of how many)."""


def tells_clients_apart(window: Window) -> bool:
    """Return whether both revisions' requests are known by groups of clients."""
    sides = window.candidate, window.stable
    return all(not side.requests or any(group.requests for group in side.clients) for side in sides)


def design_effect(windows: Iterable[Window], count: Counted) -> float:
    """Return by how much the variance of a comparison exceeds that of independent events; at least 1."""
    variance = _Variance()
    for window in windows:
        for revision, part in enumerate(_compared(window, count)):
            variance.add(revision, part)
    return variance.effect


def own_effect(parts: Sequence[Evidence], count: Counted, others: Sequence[Evidence] = ()) -> float:
    """Return the same for one revision's rate by itself, as where it is held against a limit.

    There is no other revision: one more group of clients is taken to have seen no events. Where there are no events at
    all nothing shows how they would lie over clients. Then it is as they lie at the `others`, whose clients are the
    same people, for groups of this size: an effect grows with them as 1 + (m - 1) * rho (Kish 1965).
    """
    variance = _Variance()
    for part in parts:
        variance.add(0, _alone(part, count))
    if variance.is_known or not others:
        return variance.effect
    theirs = _size(others, count)
    alike = (own_effect(others, count) - 1) / (theirs - 1) if theirs > 1 else 0.0
    return 1 + max(0.0, _size(parts, count) - 1) * min(1.0, alike)


def _size(parts: Sequence[Evidence], count: Counted) -> float:
    """Return how many trials a group has, as whoever is in one meets it; 1 without any."""
    sums = [0.0] * CLIENT_GROUPS
    for part in parts:
        for number, group in enumerate(part.clients):
            sums[number] += count(group)[1]
    return sum([trials * trials for trials in sums]) / sum(sums) if any(sums) else 1.0


def failures(evidence: Evidence) -> tuple[float, float]:
    """Return how many requests failed, and out of how many that ended well or badly."""
    errors, ended = evidence.errors, evidence.requests - evidence.aborted
    return errors, ended if ended > errors else errors


@dataclass(frozen=True)
class Slow:
    """Counts how many answers took longer than a bucket's bound, and out of how many."""

    bound: int

    def __call__(self, evidence: Evidence) -> tuple[float, float]:
        """Return both."""
        buckets, reached = evidence.latency.cumulated
        return reached[-1] - reached[bisect_right(buckets, self.bound)], reached[-1]


def exact_bounds(bound: int) -> tuple[int, ...]:
    """Return the nearest bounds, one below and one above or itself, at which groups' latencies are not rounded.

    Between them most of a group may be counted as above the bound for the rounding alone, and look alike in that.
    """
    below = bound // COARSE * COARSE
    return (below,) if below == bound else (below, below + COARSE)


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """A revision's events and trials by group, and their sums."""

    groups: Sequence[tuple[float, float]]
    lost: float
    """Events that no group saw. They may all be one client's."""
    events: float
    trials: float

    @classmethod
    def of(cls, evidence: Evidence, count: Counted) -> _Groups:
        groups = [count(group) for group in evidence.clients]
        events, trials = sum([one for one, _ in groups]), sum([many for _, many in groups])
        every, tried = count(evidence)
        return cls(groups=groups, lost=max(every - events, 0.0), events=events, trials=trials or tried)

    @property
    def rate(self) -> float:
        """Return the share of the trials that are events."""
        return min((self.events + self.lost) / self.trials, 1.0) if self.trials else 0.0

    def another(self, rate: float) -> tuple[float, float]:
        """Return events and trials of one more group, as large as these are on average, at such a rate."""
        size = self.trials / max(sum([1 for _, trials in self.groups if trials]), 1)
        return rate * size, size


def _deviations(groups: Sequence[tuple[float, float]], weight: float) -> list[float]:
    """Return how many events more than at the rate of all the others each group has, times a weight."""
    events, trials = sum([one for one, _ in groups]), sum([many for _, many in groups])
    return [weight * (one - many * (events - one) / (trials - many) if trials > many else one) for one, many in groups]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one revision adds in one window: its deviations, weighted, and the variance of independent events."""

    deviations: Sequence[float]
    independent: float


def _part(weight: float, seen: _Groups, *, another: float) -> _Part:
    """Return the part of a revision, and of one more group of clients that have the rate `another`."""
    one_more = seen.another(another)
    events = seen.events + seen.lost + one_more[0]
    every = max(seen.trials + one_more[1], events)
    return _Part(
        deviations=[weight * seen.lost, *_deviations([one_more, *seen.groups], weight)],
        independent=weight**2 * (events * (1 - events / every) if every else 0.0),
    )


@once
def _compared(window: Window, count: Counted) -> tuple[_Part, ...]:
    """Return the parts of the candidate and of the stable revision; () where one of them has seen nothing.

    A window that has ended keeps them, per way of counting: it is looked at every second.
    """
    mine, theirs = _Groups.of(window.candidate, count), _Groups.of(window.stable, count)
    if not mine.trials or not theirs.trials:
        return ()
    share = mine.trials / (mine.trials + theirs.trials)
    return _part(1 - share, mine, another=theirs.rate), _part(share, theirs, another=mine.rate)


@once
def _alone(evidence: Evidence, count: Counted) -> _Part:
    """Return the part of one revision's window by itself, which is kept in the same way."""
    return _part(1.0, _Groups.of(evidence, count), another=0.0)


class _Variance:
    """Sums per revision and group over windows, what their squares come to, and what independent events would."""

    def __init__(self) -> None:
        self._groups = [[0.0] * (CLIENT_GROUPS + 2) for _ in range(2)]
        self._independent = 0.0

    def add(self, revision: int, part: _Part) -> None:
        """Add a window of a revision."""
        sums, more = self._groups[revision], part.deviations
        self._groups[revision] = [*map(add, sums, more), *sums[len(more) :]]
        self._independent += part.independent

    @property
    def is_known(self) -> bool:
        """Return whether there were events at all, and others that were none."""
        return self._independent > 0

    @property
    def effect(self) -> float:
        clustered = sum([deviation * deviation for groups in self._groups for deviation in groups])
        return max(1.0, clustered / self._independent) if self._independent > 0 else 1.0
