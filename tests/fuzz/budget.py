"""How long to look for trouble: `HELIOSTAT_FUZZ_SECONDS` for each kind of input.

Whoever asks for a time of their own gets another seed each time. The gate has a fixed one: what it finds is to be
what the change under test has broken, not something that nobody had met so far.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("HELIOSTAT_FUZZ_SECONDS", "20"))
GUIDED_SECONDS = SECONDS / 2 if "HELIOSTAT_FUZZ_SECONDS" in os.environ else SECONDS / 4
GATE_SEED = 1
BATCH = 50


def processor_time() -> float:
    """Return the seconds that this process and those it waited for have had: a busy machine makes no input slow."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fuzz(strategy: st.SearchStrategy[object], check: Callable[[object], None], *, slowest: float = 20.0) -> int:
    """Check one input after the other until the time is over; return how many. One that takes long is a failure."""
    done = 0

    def timed(value: object) -> None:
        nonlocal done
        begun = processor_time()
        check(value)
        done += 1
        assert processor_time() - begun < slowest, "this input takes too long"

    end = time.monotonic() + SECONDS
    fresh = random.randrange(2**32) if "HELIOSTAT_FUZZ_SECONDS" in os.environ else GATE_SEED
    first = int(os.environ.get("HELIOSTAT_FUZZ_SEED", "0")) or fresh
    print(f"HELIOSTAT_FUZZ_SEED={first}")
    number = 0
    while time.monotonic() < end:
        options = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        seed(first + number)(options(given(strategy)(timed)))()
        number += 1
    return done
