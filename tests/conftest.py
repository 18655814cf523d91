"""Fixtures for every test."""

import gc
import os
import signal

from hypothesis import HealthCheck, settings

# Walking what pytest and imports hold for good is a third of the time that collecting the tests takes. What leaks is
# still told: most of it when its last reference goes, what is left in circles at the end at the latest.
gc.set_threshold(100_000, 50, 100)

pytest_plugins = ["tests.ray_cluster"]

# A shell starts what it runs in the background with interrupts ignored, and so would every process that a test
# starts and interrupts. With a handler here, they start with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that run these tests are shared: a slow first draw (Hypothesis builds its tables then) is no finding.
settings.register_profile(
    "heliostat",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("HELIOSTAT_EXAMPLES", "100")),
)
settings.load_profile("heliostat")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over all modules and tests."""
    gc.freeze()
