"""Metrics in spec files: what they become, and what is wrong with them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from specs.metric_readings import Metric
from tests.unit.specs.commits import read
from tests.unit.specs.test_service_rules import errors, service

SOUND = '{name: errors, query: \'sum(x{a="$service",b="$revision",c="$stable",d=~"$$"})\', max: 0.05}'


def with_metric(metric: str) -> str:
    return service("application: {import_path: 'chat:app'}\nanalysis:\n  metrics:\n  - " + metric)


def test_a_metric_is_read_with_its_defaults() -> None:
    (found,) = read(with_metric(SOUND)).services
    assert found.metrics == (
        Metric(
            name="errors",
            query='sum(x{a="$service",b="$revision",c="$stable",d=~"$$"})',
            min=None,
            max=0.05,
            interval=timedelta(seconds=30),
            failure_limit=0,
            consecutive_error_limit=4,
        ),
    )
    assert found.metrics[0].bounds == "at most 0.05"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (SOUND.replace("$stable", "$stabel"), '"$stabel" means nothing in a query: write one of $service, $revision'),
        (SOUND.replace("$$", "a$"), '"$" means nothing in a query'),
        (SOUND.replace("$stable", "${stable}"), '"$" means nothing in a query'),
        (SOUND.replace(", max: 0.05", ""), "a metric needs min, max or both: write for instance max: 0.05"),
        (SOUND.replace("max: 0.05", "min: 2, max: 1"), "min 2 is above max 1, so every value would fail"),
        (SOUND.replace("0.05", ".inf"), ".inf is not a JSON number"),
        (SOUND.replace("0.05", "'0.05'"), "a number is expected"),
        (SOUND[:-1] + ", interval: 500ms}", "at most once a"),
        (SOUND[:-1] + ", failureLimit: -1}", "-1 is too small: write 0 or more"),
        (SOUND + f"\n  - {SOUND}", 'the metric "errors" is listed twice: give each its own name'),
    ],
)
def test_a_metric_says_what_is_wrong_with_it(metric: str, message: str) -> None:
    (found,) = errors(with_metric(metric))
    assert message in found
