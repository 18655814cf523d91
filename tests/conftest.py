"""Fixtures for every test."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.ray_cluster"]

# Machines that run these tests are shared: a slow first draw (Hypothesis builds its tables then) is no finding.
settings.register_profile(
    "heliostat",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("HELIOSTAT_EXAMPLES", "100")),
)
settings.load_profile("heliostat")
