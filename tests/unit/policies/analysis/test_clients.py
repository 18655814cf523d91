"""How much fewer events of few clients say: clients that are all alike by chance, and groups' rounded latencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.analysis import judge
from policies.analysis.bake import judge_bake
from policies.analysis.clients import design_effect, own_effect
from specs.analysis import AnalysisSettings, Outcome, SuccessRate, Unit
from specs.evidence import CLIENT_GROUPS, COARSE, Evidence, LatencyCounts, Window

BY_CLIENT = AnalysisSettings(unit=Unit.CLIENT)
ONLY_ERRORS = replace(BY_CLIENT, latency=None)
ONLY_LATENCY = replace(BY_CLIENT, success_rate=None)
WITH_FLOOR = replace(ONLY_ERRORS, success_rate=SuccessRate(minimum=0.95))


def failures(side: Evidence) -> tuple[float, float]:
    return side.errors, side.judged


def clients(*failed: int, requests: int = 300) -> Evidence:
    """Return the traffic of clients in groups of their own that ask equally often, and so many of each one's fail."""
    groups = [Evidence(requests=requests, errors=errors) for errors in failed]
    return replace(
        sum(groups, Evidence()), clients=(*groups, *[Evidence() for _ in range(CLIENT_GROUPS - len(failed))])
    )


@pytest.mark.parametrize("bad", [(300,), (299,), (300, 300), (299, 298), (300, 299)], ids=str)
@pytest.mark.parametrize("asked", [ONLY_ERRORS, WITH_FLOOR], ids=["compared", "with a floor"])
def test_clients_that_fail_everything_are_as_many_as_they_are(bad: tuple[int, ...], asked: AnalysisSettings) -> None:
    window = Window(candidate=clients(*bad), stable=clients(*[0] * 9 * len(bad)))
    assert judge((window,), replace(asked, unit=Unit.REQUEST)).outcome is Outcome.FAILING
    assert judge((window,), asked).outcome is not Outcome.FAILING


def test_a_request_of_clients_that_are_each_all_bad_or_all_good_counts_for_its_share_of_one() -> None:
    window = Window(candidate=clients(300, 300), stable=clients(*[0] * 18))
    effects = [design_effect([window], failures)]
    effects += [own_effect([clients(*failed)], failures) for failed in ((300,), (300, 300, 300), (300, 299, 298))]
    assert all(300 <= effect <= 1_200 for effect in effects)


def test_many_clients_that_fail_everything_are_enough() -> None:
    window = Window(candidate=clients(*[300] * 8), stable=clients(*[0] * 56))
    assert judge((window,), ONLY_ERRORS).outcome is Outcome.FAILING


@pytest.mark.parametrize(("number", "bad", "share"), [(5, 0.2, 0.2), (10, 0.1, 0.1), (30, 0.1, 0.05), (30, 0.2, 0.1)])
def test_equal_candidates_of_few_clients_are_hardly_ever_rolled_back(number: int, bad: float, share: float) -> None:
    draw = np.random.default_rng(number)
    rolled_back = 0
    for _ in range(400):
        is_mine, is_bad = draw.random(number) < share, draw.random(number) < bad
        asks = 1 + draw.multinomial(300 * number, draw.dirichlet([2.0] * number))
        mine, theirs = (
            traffic(draw.integers(CLIENT_GROUPS, size=number), asks * on_side, asks * (on_side & is_bad))
            for on_side in (is_mine, ~is_mine)
        )
        rolled_back += judge((Window(candidate=mine, stable=theirs),), ONLY_ERRORS).outcome is Outcome.FAILING
    assert rolled_back <= 4


def traffic(groups: NDArray[np.int64], requests: NDArray[np.int64], errors: NDArray[np.int64]) -> Evidence:
    """Return the traffic of clients in these groups."""
    sums = [np.bincount(groups, weights=counts, minlength=CLIENT_GROUPS).tolist() for counts in (requests, errors)]
    each = tuple(Evidence(requests=int(asked), errors=int(failed)) for asked, failed in zip(*sums, strict=True))
    return Evidence(requests=int(requests.sum()), errors=int(errors.sum()), clients=each)


def timed(draw: np.random.Generator, number: int, buckets: NDArray[np.int64]) -> Evidence:
    """Return the answers of so many clients, a row of buckets each, as the gateway keeps them by group."""
    groups = draw.integers(CLIENT_GROUPS, size=number)
    rounded = -(-buckets // COARSE) * COARSE
    return Evidence(
        requests=buckets.size,
        latency=histogram(buckets),
        clients=tuple(
            Evidence(requests=rounded[groups == group].size, latency=histogram(rounded[groups == group]))
            for group in range(CLIENT_GROUPS)
        ),
    )


def histogram(buckets: NDArray[np.int64]) -> LatencyCounts:
    found, counts = np.unique(buckets, return_counts=True)
    return LatencyCounts.of(dict(zip(found.tolist(), counts.tolist(), strict=True)))


@pytest.mark.parametrize("offset", range(COARSE))
def test_one_slow_client_is_one_wherever_latencies_lie_in_the_groups_buckets(offset: int) -> None:
    draw = np.random.default_rng(offset)
    mine, theirs = (draw.integers(280 + offset, 287 + offset, size=(number, 100)) for number in (10, 190))
    mine[0] += 15  # 38% slower
    window = Window(candidate=timed(draw, 10, mine), stable=timed(draw, 190, theirs))
    assert judge((window,), replace(ONLY_LATENCY, unit=Unit.REQUEST)).outcome is Outcome.FAILING
    assert judge((window,), ONLY_LATENCY).outcome is not Outcome.FAILING


def test_slow_answers_that_no_group_has_seen_may_all_be_one_client_s() -> None:
    groups = (Evidence(requests=50),) * CLIENT_GROUPS
    mine, theirs = (
        replace(sum(groups, Evidence(latency=LatencyCounts.of(counts))), clients=groups)
        for counts in ({290: 900, 320: 100}, {290: 9_000})
    )
    window = Window(candidate=mine, stable=theirs)
    assert judge((window,), replace(ONLY_LATENCY, unit=Unit.REQUEST)).outcome is Outcome.FAILING
    assert judge((window,), ONLY_LATENCY).outcome is not Outcome.FAILING


@pytest.mark.parametrize("measure", ["errors", "latency"])
@pytest.mark.parametrize("number", [20, 40])
def test_clients_that_the_revision_before_had_none_of_are_hardly_ever_the_new_one_s_fault(
    number: int, measure: str
) -> None:
    """Each client was on the candidate from the first step (50%) on, or came with the last one; four have trouble."""
    draw = np.random.default_rng(number)
    has_trouble = np.arange(number) < 4
    taken_back = 0
    for _ in range(200):
        stayed = draw.random(number) < 0.5
        if measure == "errors":
            groups, asks = draw.integers(CLIENT_GROUPS, size=number), 200 + draw.integers(200, size=number)
            sides = [(groups[who], asks[who], (asks * has_trouble)[who]) for who in (stayed, stayed | True)]
            before, now = (traffic(*side) for side in sides)
        else:
            seconds = draw.integers(280, 287, size=(number, 100)) + 40 * has_trouble[:, None]
            before, now = (timed(draw, len(each), each) for each in (seconds[stayed], seconds))
        asked = ONLY_ERRORS if measure == "errors" else ONLY_LATENCY
        taken_back += judge_bake(before, now, asked).outcome is Outcome.FAILING
    assert taken_back <= 3


def test_without_any_failure_a_group_tells_as_much_as_its_clients_do_elsewhere() -> None:
    none = clients(*[0] * 9)
    assert own_effect([none], failures) == 1
    assert 100 <= own_effect([none], failures, [clients(300, 0, 0, 0)]) <= 600
    assert own_effect([none], failures, [none]) == 1


def test_errors_of_all_clients_alike_are_found_after_a_revision_that_had_none() -> None:
    draw = np.random.default_rng(1)
    groups, asks = draw.integers(CLIENT_GROUPS, size=200), draw.integers(50, 150, size=200)
    now = traffic(groups, asks, draw.binomial(asks, 0.03))
    assert judge_bake(traffic(groups, asks, 0 * asks), now, ONLY_ERRORS).outcome is Outcome.FAILING
