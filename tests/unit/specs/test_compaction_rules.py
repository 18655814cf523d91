"""The compaction blocks of a ClusterPolicy and of a Service."""

from __future__ import annotations

from datetime import timedelta

import pytest

from specs.cluster_policy import ClusterPolicy
from specs.compaction import CompactionSettings, NodePrice
from specs.problems import validate


def policy(compaction: object) -> tuple[CompactionSettings | None, list[str]]:
    document = {
        "apiVersion": "heliostat.dev/v1alpha1",
        "kind": "ClusterPolicy",
        "metadata": {"name": "default"},
        "spec": {"compaction": compaction},
    }
    model, problems = validate(ClusterPolicy, document)
    return model.settings().compaction if model else None, [problem.message for problem in problems]


def test_everything_that_can_be_written_is_read() -> None:
    found, problems = policy(
        {
            "enabled": True,
            "schedule": "always",
            "windows": [{"allow": "Sat,Sun", "timezone": "Europe/Berlin"}],
            "minSaving": 0.5,
            "settle": "1m",
            "stallAfter": "5m",
            "maxNodesAtOnce": 2,
            "prices": {"label": "price", "table": [{"match": {"ray.io/market-type": "spot"}, "price": 0.4}]},
        }
    )
    assert problems == []
    assert found is not None
    assert (found.enabled, found.min_saving, found.max_nodes_at_once, found.price_label) == (True, 0.5, 2, "price")
    assert (found.settle, found.stall_after) == (timedelta(minutes=1), timedelta(minutes=5))
    assert found.prices == (NodePrice(match={"ray.io/market-type": "spot"}, price=0.4),)
    assert [window.text for window in found.windows] == ["Sat,Sun Europe/Berlin"]


def test_nothing_is_emptied_unless_it_is_asked_for() -> None:
    found, problems = policy({})
    assert problems == []
    assert found == CompactionSettings()
    assert not CompactionSettings().enabled


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"enabled": "yes"}, "true"),
        ({"allow": True}, "write enabled"),
        ({"schedule": "nightly"}, "always"),
        ({"maxNodesAtOnce": 0}, "1"),
        ({"minSaving": -1}, "0"),
        ({"stallAfter": "5s"}, "at least 30s"),
        ({"prices": {"table": [{"match": {}, "price": 1}]}}, "empty"),
        ({"prices": {"table": [{"match": {"a": "b"}, "price": 0}]}}, "0"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(wrong: object, word: str) -> None:
    found, problems = policy(wrong)
    assert found is None
    assert len(problems) == 1
    assert word in problems[0]
