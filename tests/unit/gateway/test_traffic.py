"""Counters that only grow, and latency from log lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.gateway.admin import Counts
from reconciler.gateway.signals import Answer, parse_line
from reconciler.gateway.traffic import Latency, Ledger
from specs.evidence import LatencyCounts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def counts(requests: int, errors: int = 0) -> Counts:
    return Counts(requests=requests, codes=(0, requests - errors, 0, 0, errors))


def test_a_lane_s_counters_are_its_cell_s_from_the_lease_on() -> None:
    ledger = Ledger()
    ledger.credit("a", 1, "lane0", counts(10, 1))
    ledger.credit("a", 1, "lane0", counts(15, 2))
    assert ledger.of("a") == counts(15, 2)
    ledger.credit("b", 1, "lane0", counts(18, 2))
    assert (ledger.of("a"), ledger.of("b")) == (counts(15, 2), counts(3))


def test_a_new_process_counts_from_nothing_and_totals_go_on() -> None:
    ledger = Ledger()
    ledger.credit("a", 1, "lane0", counts(10))
    ledger.credit("a", 2, "lane0", counts(4))
    assert ledger.of("a") == counts(14)


def test_a_new_daemon_counts_on_from_what_was_saved() -> None:
    former = Ledger()
    former.credit("a", 1, "lane0", counts(10))
    former.credit_unrouted("a", 1, "chat", 3)
    ledger = Ledger(former.state())
    ledger.credit("a", 1, "lane0", counts(12))
    ledger.credit_unrouted("a", 1, "chat", 4)
    assert ledger.of("a") == counts(12)
    assert ledger.unrouted == {"a": 4}


def test_cells_and_processes_that_are_gone_are_forgotten() -> None:
    ledger = Ledger()
    ledger.credit("a", 1, "lane0", counts(10))
    ledger.credit("b", 2, "lane1", counts(10))
    ledger.credit_unrouted("a", 1, "chat", 3)
    ledger.keep({"b"}, {2})
    state = ledger.state()
    assert (set(state.totals), set(state.read)) == ({"b"}, {"2:lane1"})
    assert (dict(state.unrouted), dict(state.read_unrouted)) == ({}, {})


def test_errors_are_5xx_and_broken_answers_not_what_clients_gave_up() -> None:
    assert Counts(requests=9, aborted=3, broken=1, codes=(0, 2, 0, 2, 1)).errors == 2


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_right_within_five_percent(share: float) -> None:
    latency = Latency()
    for milliseconds in range(1, 1001):
        latency.add(milliseconds / 1000, 1, NOW)
    found = latency.quantile(share, NOW)
    assert found is not None
    assert share <= found.total_seconds() <= share * 1.05


def test_quantiles_are_of_the_last_minute() -> None:
    latency = Latency()
    latency.add(10.0, 100, NOW)
    latency.add(0.1, 1, NOW + timedelta(seconds=61))
    found = latency.quantile(0.99, NOW + timedelta(seconds=62))
    assert found is not None
    assert found.total_seconds() == pytest.approx(0.1, rel=0.05)
    assert latency.quantile(0.5, NOW + timedelta(minutes=5)) is None
    assert latency.histogram("a").count == 101


def test_a_sampled_answer_stands_for_its_weight() -> None:
    latency = Latency()
    latency.add(0.1, 16, NOW)
    latency.add(1.0, 1, NOW)
    histogram = latency.histogram("a")
    assert (histogram.count, histogram.total) == (17, pytest.approx(2.6))
    assert dict(histogram.buckets)[0.1] == 16
    assert dict(histogram.buckets)[float("inf")] == 17


def test_for_comparisons_each_timed_answer_counts_once_and_those_of_a_former_daemon_too() -> None:
    former = Latency()
    former.add(0.1, 16, NOW)
    former.add(1.0, 1, NOW)
    assert former.counts == LatencyCounts.from_seconds([0.1, 1.0])
    latency = Latency(former.counts)
    latency.add(0.1, 16, NOW)
    assert latency.counts == LatencyCounts.from_seconds([0.1, 0.1, 1.0])
    assert latency.counts.covers(former.counts)


def test_memory_is_bounded_whatever_comes() -> None:
    latency = Latency()
    for number in range(20_000):
        latency.add(number % 977 / 7, 1, NOW + timedelta(seconds=number / 10))
    assert len(latency._slices) <= 13
    assert max(len(bins) for _, bins in latency._slices) <= 300


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("lane3 200 0 1 12 -", Answer(lane="lane3", status=200, seconds=0.013, weight=1)),
        ("lane3 200 0 1 12 - 63", Answer(lane="lane3", status=200, seconds=0.013, weight=1, group=63)),
        ("lane3 200 0 1 12 16 -", Answer(lane="lane3", status=200, seconds=0.013, weight=16)),
        ("lane0 503 5 0 0 16", Answer(lane="lane0", status=503, seconds=0.005, weight=16)),
        ("lane3 502 0 1 -1 -", None),
        ("lane3 -1 -1 -1 -1 -", None),
        ("public 404 -1 -1 -1 -", None),
        ("unrouted 503 -1 -1 -1 -", None),
        ("lane3 200 0 1", None),
        ("lane3 x y z 1 -", None),
        ("", None),
    ],
)
def test_log_lines_of_answers_are_read_and_others_left(line: str, answer: Answer | None) -> None:
    assert parse_line(line) == answer
