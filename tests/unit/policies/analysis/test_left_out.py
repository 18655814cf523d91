"""What a look does not reckon because it could change nothing: how events lie over clients, where few speak at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.analysis import bands, judge, latency, success
from policies.analysis.sequential import Stratum, log_evidence, mixture
from specs.analysis import AnalysisSettings, Judgement, Latency, Outcome, SuccessRate, Unit
from specs.evidence import Window
from tests.bench.sticky_traffic import Sticky, sticky_looks

BY_CLIENT = AnalysisSettings(unit=Unit.CLIENT)
ASKED = [
    BY_CLIENT,
    replace(BY_CLIENT, success_rate=SuccessRate(minimum=0.99), latency=Latency(quantile=0.9, max_increase=0.1)),
    replace(BY_CLIENT, success_rate=SuccessRate(minimum=0.95), latency=Latency(quantile=0.999)),
]
TRAFFIC = [
    Sticky(requests=4_000, shares=(0.1, 0.5)),
    Sticky(requests=4_000, clients=20_000),
    Sticky(requests=4_000, clients=10, bad=0.1, bad_rate=1.0, other_rate=0.0),
]

counts = st.floats(0, 5_000)
dilutions = st.floats(1, 500)


@st.composite
def strata(draw: st.DrawFn) -> Stratum:
    candidate, stable = draw(counts), draw(counts)
    part = st.floats(0, 1)
    return Stratum(
        candidate=candidate, stable=stable, candidate_events=candidate * draw(part), stable_events=stable * draw(part)
    )


def diluted(stratum: Stratum, by: float) -> Stratum:
    return Stratum(
        candidate=stratum.candidate / by,
        stable=stratum.stable / by,
        candidate_events=stratum.candidate_events / by,
        stable_events=stratum.stable_events / by,
    )


@given(seen=st.lists(strata(), min_size=1, max_size=3), by=dilutions)
def test_clusters_never_make_evidence_more(seen: list[Stratum], by: float) -> None:
    most = max(0.0, log_evidence(seen)) / by
    assert log_evidence([diluted(one, by) for one in seen]) <= most + 1e-9 * (1 + most)


@given(hits=counts, more=counts, chance=st.floats(0.0001, 0.9999), by=dilutions, sign=st.sampled_from([1, -1]))
def test_nor_evidence_against_a_limit(hits: float, more: float, chance: float, by: float, sign: int) -> None:
    most = max(0.0, mixture(hits, ((hits + more, chance),), sign)) / by
    assert mixture(hits / by, (((hits + more) / by, chance),), sign) <= most + 1e-9 * (1 + most)


@given(seen=st.lists(strata(), min_size=1, max_size=3), kept=st.floats(0, 1), by=dilutions)
def test_nor_that_of_bands_further_out(seen: list[Stratum], kept: float, by: float) -> None:
    above = [
        [
            replace(one, candidate_events=one.candidate_events * kept**far, stable_events=one.stable_events * kept**far)
            for one in seen
        ]
        for far in range(len(bands.RARER))
    ]
    most = max(0.0, bands.log_evidence(above)) / by
    assert bands.log_evidence([[diluted(one, by) for one in each] for each in above]) <= most + 1e-9 * (1 + most)


def rollouts() -> Iterator[tuple[Window, ...]]:
    for number, traffic in enumerate(TRAFFIC):
        for worse, slower in product((1, 8), (1, 1.4, 2)):
            yield from sticky_looks(number, traffic, worse=worse, slower=slower)


def judged() -> list[Judgement]:
    return [judge(windows, asked) for windows in rollouts() for asked in ASKED]


def test_judgements_are_those_of_reckoning_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged()
    for module in (latency, success):
        monkeypatch.setattr(module, "stays_below", lambda _log_e, _limit: False)
    assert found == judged()
    assert {one.outcome for one in found} == set(Outcome)
