"""Numbers as a person reads them."""

from __future__ import annotations


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


def sure_bounds(ratio: float | None, low: float | None) -> str:
    """Return how many times more, and how much of it is sure."""
    times = "" if ratio is None else f"{ratio:.3g} times as many, "
    return f": {times}surely more" if low is None else f": {times}surely more than {low:.3g} times"
