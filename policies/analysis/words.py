"""Numbers as a person reads them."""

from __future__ import annotations

import math


def many(count: float) -> str:
    """Return a count with separators, such as 26,000."""
    return f"{count:,.0f}"


def percent(share: float) -> str:
    """Return a share in percent, such as 0.12% or 99.95%."""
    value = 100 * share
    return f"{value:.3g}%" if value < 99 else f"{value:.5g}%"


def change(ratio: float) -> str:
    """Return a ratio as a change: 31% higher, 4% lower, 78 times as high."""
    if ratio >= 2:
        return f"{ratio:.3g} times as high"
    return f"{abs(ratio - 1):.0%} {'higher' if ratio >= 1 else 'lower'}"


def beside(ratio: float) -> str:
    """Return a ratio as what stands before the thing compared with: 31% higher than, 78 times, about."""
    if ratio >= 2:
        return f"{ratio:.3g} times"
    return "about" if abs(ratio - 1) < 0.005 else f"{change(ratio)} than"


def seconds(value: float) -> str:
    """Return a latency, such as 84 ms or 2.3 s."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def sure_bounds(ratio: float | None, low: float | None, high: float | None) -> str:
    """Return how many times more, and between which bounds that surely is."""
    times = "" if ratio is None else f"{ratio:.3g} times as many, "
    if low is None:
        return f": {times}surely more"
    below = "" if high is None or math.isinf(high) else f" and less than {high:.3g}"
    return f": {times}surely more than {low:.3g}{below} times"


def sure_change(low: float | None, high: float | None) -> str:
    """Return between which bounds a rise surely is."""
    if low is None or low <= 1:
        return "surely higher"
    below = "" if high is None or math.isinf(high) else f" to {change(high)}"
    return f"surely {change(low)}{below}"
