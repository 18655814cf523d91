from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.gateway.traffic import CellHistogram
from reconciler.metrics import Metrics
from specs.cells import CellKey
from specs.decisions import Hold, RestoreCell, RollBack
from specs.effects import ScaleDeployment
from specs.reasons import Reason
from tests.unit.api.backends import cluster, sample_history, sample_nodes, steady
from tests.unit.telemetry.ticks import AT, Results, tick

SCALE = ScaleDeployment(service="chat", application="chat.b7.-.-.0", deployment="Chat", target=3)
HOLD = Hold(service="chat", reason=Reason.PAUSING, message="")
ROLL_BACK = RollBack(service="chat", revision="b7", reason=Reason.CRASH_LOOP, message="")


class SampleGateway:
    """Two cells of one revision and one of another."""

    def codes(self) -> dict[str, dict[str, int]]:
        return {
            "chat.b7.a.-.0": {"2xx": 10, "5xx": 1},
            "chat.b7.b.-.0": {"2xx": 5, "5xx": 0},
            "chat.c9.-.-.1": {"2xx": 7},
        }

    def crossings(self) -> dict[str, dict[str, int]]:
        return {
            "chat.b7.a.-.0": {"near": 10, "far": 0, "unknown": 0},
            "chat.b7.b.-.0": {"near": 0, "far": 5, "unknown": 0},
        }

    def cross_zone(self) -> dict[str, float]:
        return {"chat": 0.25}

    def histograms(self) -> tuple[CellHistogram, ...]:
        buckets = ((0.1, 3), (1.0, 4), (float("inf"), 5))
        return tuple(
            CellHistogram(cell=cell, buckets=buckets, count=5, total=1.5) for cell in ("chat.b7.a.-.0", "chat.b7.b.-.0")
        )


def samples(metrics: Metrics) -> dict[str, float]:
    """Return every sample as Prometheus would read it, by name and labels."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_before_the_first_tick_there_is_no_leader_and_no_error() -> None:
    assert samples(Metrics())["heliostat_leader"] == 0


def test_a_tick_is_counted_by_outcome_and_timed_by_phase() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick())
    metrics.observe_tick(tick(complete=False))
    metrics.observe_tick(tick(results=Results(problems={"chat": (Reason.SERVE_BUSY, "")})))
    metrics.observe_tick(tick(results=Results(is_saved=False)))
    found = samples(metrics)
    assert found["heliostat_reconcile_total outcome=ok"] == 1
    assert found["heliostat_reconcile_total outcome=blind"] == 1
    assert found["heliostat_reconcile_total outcome=failed"] == 2
    assert found["heliostat_reconcile_duration_seconds_count phase=apply"] == 4
    assert found["heliostat_reconcile_duration_seconds_sum phase=apply"] == pytest.approx(1.2)


def test_the_status_is_shown_as_gauges() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick(nodes=sample_nodes()))
    found = samples(metrics)
    assert found["heliostat_leader"] == 1
    assert found["heliostat_service_weight revision=b7710de40a12 service=chat"] == 10
    assert found["heliostat_service_condition service=chat type=Ready"] == 1
    assert found["heliostat_service_condition service=chat type=Synced"] == 0
    assert found["heliostat_service_replicas revision=3f9a1c2eb771 service=chat state=target"] == 6
    assert found["heliostat_service_replicas revision=3f9a1c2eb771 service=chat state=running"] == 2
    assert found["heliostat_service_replicas revision=3f9a1c2eb771 service=chat state=stopping"] == 1
    assert found["heliostat_service_replicas revision=b7710de40a12 service=chat state=ready"] == 1
    assert found["heliostat_nodes market=spot state=draining zone=us-east-1a"] == 1
    assert found["heliostat_nodes market= state=alive zone="] == 1
    assert found["heliostat_git_age_seconds"] == pytest.approx(0.4)
    assert found["heliostat_gateway_reloads_total"] == 2
    assert found["process_resident_memory_bytes"] > 0


def test_a_service_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick())
    metrics.observe_tick(tick(status=cluster(steady("rerank"))))
    text = metrics.render().decode()
    assert 'service="rerank"' in text
    assert 'service_weight{revision="b7710de40a12"' not in text
    assert 'heliostat_service_condition{service="chat"' not in text


def test_blindness_shows_as_a_growing_age() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick(now=AT))
    metrics.observe_tick(tick(now=AT + timedelta(seconds=42), complete=False))
    assert samples(metrics)["heliostat_observation_age_seconds"] == 42


def test_rollouts_rollbacks_and_drift_are_counted_once_they_are_saved() -> None:
    metrics = Metrics()
    key = CellKey(service="chat", revision="b7")
    happened = tick(ROLL_BACK, RestoreCell(service="chat", cell=key), HOLD, history=sample_history())
    metrics.observe_tick(replace(happened, results=Results(is_saved=False)))
    assert not [name for name in samples(metrics) if name.startswith("heliostat_rollbacks_total")]
    metrics.observe_tick(happened)
    found = samples(metrics)
    assert found["heliostat_rollbacks_total reason=CrashLoop service=chat"] == 1
    assert found["heliostat_rollouts_total outcome=promoted service=search"] == 1
    assert found["heliostat_drift_total field=cell service=chat"] == 1


def test_the_gateways_counters_are_summed_per_revision_and_zone() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick(), SampleGateway())
    found = samples(metrics)
    assert found["heliostat_gateway_requests_total code=2xx revision=b7 service=chat zone=a"] == 10
    assert found["heliostat_gateway_requests_total code=5xx revision=b7 service=chat zone=a"] == 1
    assert found["heliostat_gateway_requests_total code=2xx revision=c9 service=chat zone="] == 7
    assert found["heliostat_gateway_zone_requests_total revision=b7 service=chat side=near"] == 10
    assert found["heliostat_gateway_zone_requests_total revision=b7 service=chat side=far"] == 5
    assert found["heliostat_gateway_cross_zone_share service=chat"] == 0.25
    duration = "heliostat_gateway_request_duration_seconds"
    assert found[f"{duration}_bucket le=0.1 revision=b7 service=chat"] == 6
    assert found[f"{duration}_bucket le=+Inf revision=b7 service=chat"] == 10
    assert found[f"{duration}_count revision=b7 service=chat"] == 10
    assert found[f"{duration}_sum revision=b7 service=chat"] == pytest.approx(3.0)


def test_the_first_effect_of_a_new_commit_is_timed_from_the_commit() -> None:
    metrics = Metrics()
    done = Results(done=(SCALE,))
    metrics.observe_tick(tick(ROLL_BACK, commit="old", committed_at=AT - timedelta(days=3), results=done))
    assert samples(metrics)["heliostat_commit_to_first_effect_seconds_count"] == 0, "the commit found at the start"
    metrics.observe_tick(tick(ROLL_BACK, commit="new", committed_at=AT - timedelta(milliseconds=500)))
    metrics.observe_tick(tick(ROLL_BACK, commit="new", committed_at=AT - timedelta(milliseconds=500), results=done))
    metrics.observe_tick(tick(ROLL_BACK, commit="new", committed_at=AT - timedelta(milliseconds=500), results=done))
    found = samples(metrics)
    assert found["heliostat_commit_to_first_effect_seconds_count"] == 1
    assert found["heliostat_commit_to_first_effect_seconds_sum"] == pytest.approx(0.5 + 0.303)


def test_a_commit_that_changes_nothing_is_not_timed() -> None:
    metrics = Metrics()
    metrics.observe_tick(tick(HOLD, commit="a"))
    metrics.observe_tick(tick(HOLD, commit="b"))
    metrics.observe_tick(tick(ROLL_BACK, commit="b", now=AT + timedelta(hours=1), results=Results(done=(SCALE,))))
    assert samples(metrics)["heliostat_commit_to_first_effect_seconds_count"] == 0


def test_git_requests_are_counted_by_kind_and_outcome() -> None:
    metrics = Metrics()
    metrics.count_git_request("query", "ok")
    metrics.count_git_request("query", "ok")
    metrics.count_git_request("fetch", "timeout")
    found = samples(metrics)
    assert found["heliostat_git_requests_total kind=query outcome=ok"] == 2
    assert found["heliostat_git_requests_total kind=fetch outcome=timeout"] == 1
