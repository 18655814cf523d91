"""A metrics server that answers as it is told."""

from __future__ import annotations

from reconciler.errors import PortError
from reconciler.ports import Measured


class FakeMetrics:
    """Implements `reconciler.ports.MetricsServer`.

    `value` is what every query gives, `values` what single ones do; None is no number. While `problem` is set,
    every query fails with it.
    """

    def __init__(self, value: float | None = 0.0) -> None:
        self.value = value
        self.values: dict[str, float | None] = {}
        self.problem: PortError | None = None
        self.queries: list[str] = []

    async def query(self, query: str) -> Measured:
        self.queries.append(query)
        if self.problem is not None:
            raise self.problem
        value = self.values.get(query, self.value)
        return Measured(value=value, message="" if value is not None else "the query gives no series")
