"""How long to wait before a source is asked again."""

from __future__ import annotations

import random

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds: before the first try again, doubled with each further one up to the longest."""


def back_off(tries: int) -> float:
    """Return a pause in seconds after so many failed tries.

    Jittered: many clients that failed together must not come back together.
    """
    return random.uniform(0.2, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1)) if tries else 0.0  # noqa: S311
