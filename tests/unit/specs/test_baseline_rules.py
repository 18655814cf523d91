"""`baseline: fresh` in spec files: what it becomes, and where it would have no room."""

from __future__ import annotations

import pytest

from specs.analysis import Baseline
from tests.unit.specs.commits import read
from tests.unit.specs.test_service_rules import errors, service


def fresh(count: int, rollout: str, deployment: str = "") -> str:
    scale = deployment or f"num_replicas: {count}"
    return service(
        f"application: {{import_path: 'chat:app', deployments: [{{name: Chat, {scale}}}]}}\n"
        f"rollout: {{{rollout}}}\nanalysis: {{baseline: fresh}}"
    )


@pytest.mark.parametrize(
    ("count", "rollout"),
    [(10, ""), (5, ""), (4, "maxSurge: 2"), (1, "maxSurge: 2"), (4, "maxSurge: 1, maxUnavailable: 1")],
)
def test_a_fresh_baseline_is_read_where_two_more_replicas_have_room(count: int, rollout: str) -> None:
    (found,) = read(fresh(count, rollout)).services
    assert found.analysis is not None
    assert found.analysis.baseline is Baseline.FRESH


@pytest.mark.parametrize(
    ("count", "rollout", "left"),
    [(4, "", 1), (4, "maxSurge: 1", 1), (1, "maxSurge: 1, maxUnavailable: 1", 1)],
)
def test_one_without_room_is_an_error_that_says_what_to_write(count: int, rollout: str, left: int) -> None:
    (found,) = errors(fresh(count, rollout))
    assert f"leave {left} of" in found
    assert f'"Chat" at {count}' in found
    assert "write maxSurge: 2, or leave baseline out" in found


def test_autoscaled_deployments_must_have_room_at_their_lower_bound() -> None:
    (found,) = errors(fresh(0, "", "autoscaling_config: {min_replicas: 2, max_replicas: 40}"))
    assert '"Chat" at 2' in found


def test_other_baselines_are_unknown() -> None:
    (found,) = errors(service("application: {import_path: 'chat:app'}\nanalysis: {baseline: old}"))
    assert "baseline" in found or "old" in found
