"""Evidence for tests: drawn by hypothesis, or exactly as wanted."""

from __future__ import annotations

from hypothesis import strategies as st

from specs.evidence import Evidence, LatencyCounts, Window

histograms = st.dictionaries(st.integers(0, 700), st.integers(1, 2000), max_size=10).map(LatencyCounts.of)


@st.composite
def evidences(draw: st.DrawFn, groups: int = 0) -> Evidence:
    """Draw counters that can be: no more errors than requests, no more of both than were sent."""
    requests = draw(st.integers(0, 5000))
    errors = draw(st.integers(0, requests))
    return Evidence(
        requests=requests,
        errors=errors,
        aborted=draw(st.integers(0, requests - errors)),
        unrouted=draw(st.integers(0, 50)),
        latency=draw(histograms),
        clients=tuple(draw(evidences()) for _ in range(groups)),
    )


windows = st.builds(Window, candidate=evidences(), stable=evidences())


def evidence(requests: int, errors: int = 0, latencies: dict[int, int] | None = None) -> Evidence:
    """Return counters with latencies per bucket, or all in one bucket."""
    counts = {300: requests} if latencies is None else latencies
    return Evidence(requests=requests, errors=errors, latency=LatencyCounts.of(counts))
