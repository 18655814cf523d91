"""What a process holds for good is taken out of the garbage collector's rounds."""

from __future__ import annotations

import functools
import gc


@functools.cache
def spare_what_is_there() -> None:
    """Let the collector pass over everything that this process holds now; once, however often it is called.

    A full round walks every object: with a thousand services some 0.1 s, in which nothing else runs, every few
    commits. What is let go later is freed all the same, unless it is in a circle.
    """
    gc.collect()
    gc.freeze()


def collect_rarely() -> None:
    """Look for circles a hundredth as often: a command that ends in seconds lets go of little, and all of it then."""
    gc.set_threshold(100_000, 20, 100)
