"""What all measures say together, and what they never say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.analysis import append, judge, with_bounds
from policies.analysis.clients import design_effect, own_effect
from policies.analysis.windows import MAX_WINDOWS, counters
from specs.analysis import AnalysisSettings, Judgement, Latency, Measure, Outcome, SuccessRate, Unit
from specs.evidence import CLIENT_GROUPS, Evidence, LatencyCounts, Window
from tests.unit.policies.analysis.evidence import evidence, evidences, windows

ONLY_ERRORS = AnalysisSettings(latency=None)
WITH_FLOOR = AnalysisSettings(latency=None, success_rate=SuccessRate(minimum=0.99))


def errors(mine: tuple[int, int], theirs: tuple[int, int], asked: AnalysisSettings = ONLY_ERRORS) -> Judgement:
    """Judge (failed, requests) of both."""
    window = Window(candidate=evidence(mine[1], mine[0]), stable=evidence(theirs[1], theirs[0]))
    return with_bounds(judge((window,), asked), (window,), asked)


@settings(deadline=None, max_examples=60)
@given(st.lists(windows, max_size=4), st.sampled_from([None, 0.5, 0.99]), st.integers(1, 30_000))
def test_nothing_fails_or_passes_on_fewer_requests_than_asked_for(
    seen: list[Window], minimum: float | None, least: int
) -> None:
    asked = AnalysisSettings(success_rate=SuccessRate(minimum=minimum), min_requests=least)
    judged = judge(seen, asked)
    for verdict in judged.verdicts:
        if verdict.candidate_samples < least:
            assert verdict.outcome is Outcome.INCONCLUSIVE
            assert verdict.needed >= least - verdict.candidate_samples


@settings(deadline=None, max_examples=60)
@given(st.lists(evidences(), min_size=1, max_size=4), st.sampled_from([None, 0.5, 0.99]))
def test_a_candidate_with_the_same_counts_never_fails(seen: list[Evidence], minimum: float | None) -> None:
    same = [Window(candidate=one, stable=one) for one in seen]
    asked = AnalysisSettings(success_rate=SuccessRate(minimum=minimum), min_requests=1)
    assert judge(same, asked).outcome is not Outcome.FAILING


@settings(deadline=None, max_examples=60)
@given(windows, st.integers(1, 500))
def test_more_errors_of_the_candidate_never_save_it(window: Window, more: int) -> None:
    candidate = window.candidate
    worse = replace(candidate, requests=candidate.requests + more, errors=candidate.errors + more)
    before = judge((window,), ONLY_ERRORS).outcome
    after = judge((Window(candidate=worse, stable=window.stable),), ONLY_ERRORS).outcome
    assert not (before is Outcome.FAILING and after is not Outcome.FAILING)


@settings(deadline=None, max_examples=40)
@given(st.lists(windows, min_size=2, max_size=4))
def test_the_order_of_windows_does_not_matter(seen: list[Window]) -> None:
    one, other = judge(seen, AnalysisSettings()), judge(seen[::-1], AnalysisSettings())
    assert one.outcome is other.outcome
    for mine, theirs in zip(one.verdicts, other.verdicts, strict=True):
        assert mine.effect == (None if theirs.effect is None else pytest.approx(theirs.effect))


@settings(deadline=None, max_examples=40)
@given(windows, st.integers(0, 100))
def test_what_clients_gave_up_and_the_gateway_refused_counts_for_nothing(window: Window, count: int) -> None:
    candidate = window.candidate
    abandoned = replace(
        candidate,
        requests=candidate.requests + count,
        aborted=candidate.aborted + count,
        unrouted=candidate.unrouted + count,
    )
    changed = Window(candidate=abandoned, stable=window.stable)
    assert judge((changed,), AnalysisSettings()) == judge((window,), AnalysisSettings())


@pytest.mark.parametrize(
    ("mine", "theirs", "outcome"),
    [
        ((90, 3_000), (270, 27_000), Outcome.FAILING),
        ((30, 3_000), (270, 27_000), Outcome.PASSING),
        ((0, 3_000), (0, 27_000), Outcome.PASSING),
        ((0, 3_000), (270, 27_000), Outcome.PASSING),
        ((10, 1_000), (0, 9_000), Outcome.FAILING),
        ((1, 1_000), (0, 9_000), Outcome.PASSING),
        ((5, 1_000), (15, 9_000), Outcome.PASSING),
        ((200, 200), (0, 200), Outcome.FAILING),
        ((199, 199), (0, 9_000), Outcome.INCONCLUSIVE),
        ((0, 3_000), (0, 0), Outcome.INCONCLUSIVE),
        ((0, 0), (0, 0), Outcome.INCONCLUSIVE),
        ((0, 300), (300, 300), Outcome.PASSING),
        ((10_800, 1_000_000), (90_000, 9_000_000), Outcome.PASSING),
        ((12_000, 1_000_000), (90_000, 9_000_000), Outcome.FAILING),
    ],
    ids=str,
)
def test_errors_are_judged_by_how_sure_a_difference_is(
    mine: tuple[int, int], theirs: tuple[int, int], outcome: Outcome
) -> None:
    assert errors(mine, theirs).outcome is outcome


def test_a_suspicious_candidate_waits_for_about_as_many_requests_as_it_takes() -> None:
    judged = errors((14, 500), (45, 4_500))
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert "looks worse" in judged.message
    grown = 1 + judged.needed / 500
    later = errors((round(14 * grown) + 1, round(500 * grown)), (round(45 * grown), round(4_500 * grown)))
    assert later.outcome is Outcome.FAILING


@pytest.mark.parametrize(
    ("mine", "theirs", "outcome"),
    [
        ((60, 3_000), (0, 0), Outcome.FAILING),
        ((30, 3_000), (0, 0), Outcome.INCONCLUSIVE),
        ((60, 3_000), (540, 27_000), Outcome.INCONCLUSIVE),
        ((50, 3_000), (200, 27_000), Outcome.FAILING),
        ((30, 3_000), (270, 27_000), Outcome.PASSING),
        ((100, 100), (0, 0), Outcome.INCONCLUSIVE),
    ],
    ids=str,
)
def test_a_floor_fails_only_what_the_stable_revision_does_better(
    mine: tuple[int, int], theirs: tuple[int, int], outcome: Outcome
) -> None:
    assert errors(mine, theirs, WITH_FLOOR).outcome is outcome


def test_a_floor_missed_is_said() -> None:
    assert "surely fewer than 99% succeed" in errors((60, 3_000), (0, 0), WITH_FLOOR).message
    assert "stable revision does not surely" in errors((60, 3_000), (540, 27_000), WITH_FLOOR).message


def test_the_numbers_are_told() -> None:
    judged = errors((90, 3_000), (270, 27_000))
    verdict = judged.verdicts[0]
    assert verdict.measure is Measure.SUCCESS_RATE
    assert (verdict.candidate, verdict.stable) == (0.03, 0.01)
    assert (verdict.candidate_samples, verdict.stable_samples) == (3_000, 27_000)
    assert verdict.effect == pytest.approx(3)
    assert verdict.low is not None
    assert verdict.high is not None
    assert 1.5 < verdict.low < 3 < verdict.high < 6
    assert judged.message == verdict.message
    assert verdict.message.startswith(
        "3% of 3,000 requests failed, 1% of 27,000 at the stable revision: 3 times as many"
    )


def test_one_failing_measure_fails_the_candidate() -> None:
    slow = Window(candidate=evidence(3_000, 0, {400: 3_000}), stable=evidence(27_000, 0))
    judged = judge((slow,), AnalysisSettings())
    assert [verdict.outcome for verdict in judged.verdicts] == [Outcome.PASSING, Outcome.FAILING]
    assert judged.outcome is Outcome.FAILING
    assert "p99" in judged.message
    assert judge((slow,), replace(AnalysisSettings(), latency=None)).outcome is Outcome.PASSING


def test_nothing_asked_is_nothing_refused() -> None:
    assert judge((), AnalysisSettings(success_rate=None, latency=None)).outcome is Outcome.PASSING


def test_no_evidence_at_all_says_what_is_needed() -> None:
    judged = judge((), AnalysisSettings(latency=Latency(), min_requests=200))
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert judged.needed == 200


def added(seen: Iterable[Window]) -> Window:
    parts = list(seen)
    return Window(
        candidate=sum((one.candidate for one in parts), Evidence()),
        stable=sum((one.stable for one in parts), Evidence()),
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(windows, max_size=20))
def test_many_windows_become_few_and_keep_their_sum(seen: list[Window]) -> None:
    kept: tuple[Window, ...] = ()
    for window in seen:
        kept = append(kept, window)
    assert len(kept) <= MAX_WINDOWS
    counted = [one for one in seen if one.candidate.requests or one.stable.requests]
    assert added(kept) == added(counted)
    assert counters(kept).candidate.judged == added(counted).candidate.judged


def by_client(clients: int, bad_ones: int, seed: int) -> Evidence:
    """Return the traffic of clients with a hundred requests each; all of a bad one's fail."""
    draw = np.random.default_rng(seed)
    groups = [Evidence() for _ in range(CLIENT_GROUPS)]
    for client in range(clients):
        group = int(draw.integers(CLIENT_GROUPS))
        theirs = Evidence(
            requests=100,
            errors=100 if client < bad_ones else 0,
            latency=LatencyCounts.of({int(draw.integers(280, 320)): 100}),
        )
        groups[group] += theirs
    whole = sum(groups, Evidence())
    return replace(whole, clients=tuple(groups))


def test_a_few_bad_clients_are_few_however_many_requests_they_send() -> None:
    seen = (Window(candidate=by_client(200, 5, 1), stable=by_client(1_800, 18, 2)),)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.REQUEST)).outcome is Outcome.FAILING
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is Outcome.PASSING


def bad_client(requests: int, others: int, *, group: int = 3) -> Evidence:
    """Return traffic one client of which fails all its requests, and 2% of all others'."""
    groups = [Evidence(requests=others // CLIENT_GROUPS, errors=others // CLIENT_GROUPS // 50)] * CLIENT_GROUPS
    groups[group] += Evidence(requests=requests, errors=requests)
    return replace(sum(groups, Evidence()), clients=tuple(groups))


def test_a_small_candidate_s_one_bad_client_is_not_diluted_by_the_others_many_good_ones() -> None:
    seen = (Window(candidate=bad_client(80, 3_200), stable=bad_client(0, 320_000)),)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.REQUEST)).outcome is Outcome.FAILING
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is not Outcome.FAILING


def test_a_client_that_sends_nearly_all_requests_does_not_set_the_rate_it_is_judged_by() -> None:
    mine = bad_client(3_000, 64)
    seen = (Window(candidate=mine, stable=bad_client(0, 32_000)),)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is not Outcome.FAILING


def test_a_client_that_fails_in_every_window_is_still_one() -> None:
    seen = [Window(candidate=by_client(200, 5, 1), stable=by_client(1_800, 18, 2))] * 6
    assert design_effect(seen, failures) == pytest.approx(6 * design_effect(seen[:1], failures), rel=0.01)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is Outcome.PASSING


def test_independent_errors_count_in_full() -> None:
    draw = np.random.default_rng(0)
    groups = tuple(Evidence(requests=500, errors=int(draw.poisson(5))) for _ in range(CLIENT_GROUPS))
    side = replace(sum(groups, Evidence()), clients=groups)
    assert design_effect([Window(candidate=side, stable=side)], failures) == pytest.approx(1, abs=0.4)
    assert own_effect([side], failures) == pytest.approx(1, abs=0.4)


def test_errors_that_no_group_has_seen_may_all_be_one_client_s() -> None:
    groups = (Evidence(requests=50),) * CLIENT_GROUPS
    mine = replace(sum(groups, Evidence(errors=300)), clients=groups)
    theirs = replace(sum(groups * 9, Evidence()), clients=tuple(group + group for group in groups))
    seen = (Window(candidate=mine, stable=theirs),)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is not Outcome.FAILING


def test_windows_from_before_clients_were_told_apart_do_not_count() -> None:
    old = Window(candidate=evidence(3_000, 900), stable=evidence(27_000, 0))
    new = Window(candidate=by_client(200, 2, 1), stable=by_client(1_800, 18, 2))
    asked = replace(ONLY_ERRORS, unit=Unit.CLIENT)
    assert judge((old, new), asked) == judge((new,), asked)


def test_a_window_whose_groups_have_seen_nothing_does_not_count() -> None:
    silent = Window(
        candidate=replace(evidence(3_000, 900), clients=(Evidence(),) * CLIENT_GROUPS),
        stable=replace(evidence(27_000, 0), clients=(Evidence(),) * CLIENT_GROUPS),
    )
    assert judge((silent,), replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is Outcome.INCONCLUSIVE


def failures(side: Evidence) -> tuple[float, float]:
    return side.errors, side.judged


def test_many_bad_clients_are_many() -> None:
    seen = (Window(candidate=by_client(400, 80, 1), stable=by_client(1_600, 16, 2)),)
    assert judge(seen, replace(ONLY_ERRORS, unit=Unit.CLIENT)).outcome is Outcome.FAILING


def test_clients_that_cannot_be_told_apart_are_not_judged() -> None:
    judged = errors((90, 3_000), (270, 27_000), replace(ONLY_ERRORS, unit=Unit.CLIENT))
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert "told apart" in judged.message
