"""Fixtures for every test."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.ray_cluster"]

# Machines that run these tests are shared: a slow first draw (Hypothesis builds its tables then) is no finding.
settings.register_profile("heliostat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("heliostat")
