"""The `analysis` block of a Service and the `analysis` step, as users write them."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from specs.analysis import AnalysisSettings, Baseline, Latency, SuccessRate
from specs.metric_readings import QUERY_NAME, QUERY_NAMES, Metric
from specs.strict import SHORT_NAME, CamelModel, Duration

PERCENT = r"^[0-9]{1,4}(\.[0-9]{1,4})?%$"

STEP_TIME = timedelta(minutes=1)
"""An analysis that ends with the first few requests sees what happens in a start only."""

LONGEST_QUERY = 4000
"""Queries travel in URLs."""

MOST_REQUESTS = 10_000_000
"""More than any step waits for: a larger number is a typing error."""


def _percent(value: Any) -> float:
    if not isinstance(value, str) or not re.fullmatch(PERCENT, value):
        raise ValueError("a percentage is expected: write for instance 99% or 99.9%, in quotes or plain")
    return float(value.removesuffix("%")) / 100


def _rate(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("a success rate is more than 0% and less than 100%: write for instance 99%")
    return value


Percent = Annotated[
    float,
    BeforeValidator(_percent),
    WithJsonSchema({"type": "string", "pattern": PERCENT, "examples": ["99%", "99.9%"]}),
]
"""A share, written as a percentage."""


class AnalysisStep(CamelModel):
    """How long an analysis step takes at least, and how many requests it wants to see."""

    duration: Duration = Field(
        default=STEP_TIME, description="The step's time; it ends when this is over and enough requests were seen."
    )
    min_requests: int | None = Field(
        default=None, ge=1, le=MOST_REQUESTS, description="Instead of analysis.minRequests, for this step."
    )


class SuccessRateSpec(CamelModel):
    """Whether the new revision fails more of its requests than the old one."""

    min: Annotated[Percent, AfterValidator(_rate)] | None = Field(
        default=None, description="Besides: the share of requests that must succeed, whatever the old revision does."
    )


class LatencySpec(CamelModel):
    """Whether the new revision takes longer to begin its answers than the old one."""

    quantile: float = Field(default=99, ge=50, le=99.9, description="Which latencies are compared, as a percentile.")
    max_increase: Percent = Field(
        default=0.3,
        description="How much longer the new revision may take at it.",
        json_schema_extra={"default": "30%"},
    )


def _query(value: str) -> str:
    for found in re.finditer(QUERY_NAME, value):
        if found[1] != "$" and found[1] not in QUERY_NAMES:
            known = ", ".join(f"${name}" for name in QUERY_NAMES)
            raise ValueError(f'"{found[0]}" means nothing in a query: write one of {known}, or $$ for a dollar sign')
    if not value.strip() or len(value) > LONGEST_QUERY:
        raise ValueError(f"a query has 1 to {LONGEST_QUERY} characters: write one that gives a single number")
    return value


def _bound(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number is expected: write for instance 0.05")
    return float(value)


def _interval(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError("metrics are measured at most once a second: write for instance 30s")
    return value


Bound = Annotated[float, BeforeValidator(_bound), WithJsonSchema({"type": "number"})]


class MetricSpec(CamelModel):
    """One number from the metrics server, measured again and again while the new revision gets requests."""

    name: str = Field(pattern=SHORT_NAME, description="What it is called in verdicts.")
    query: Annotated[str, AfterValidator(_query)] = Field(
        description="PromQL that gives one number. $service, $revision (the new one) and $stable stand for names."
    )
    min: Bound | None = Field(default=None, description="A value below is a failure.")
    max: Bound | None = Field(default=None, description="A value above is a failure.")
    interval: Annotated[Duration, AfterValidator(_interval)] = Field(
        default=timedelta(seconds=30), description="How often to measure."
    )
    failure_limit: int = Field(default=0, ge=0, le=1000, description="More failures than this roll back.")
    consecutive_error_limit: int = Field(
        default=4, ge=0, le=1000, description="More errors of the server in a row pause the rollout until it answers."
    )


class AnalysisSpec(CamelModel):
    """How the requests of the new revision are judged beside those of the old one, at every step."""

    refused: ClassVar[dict[str, str]] = {"duration": "write it at the step: - analysis: {duration: 5m}"}

    success_rate: SuccessRateSpec | None = Field(
        default=None, description="Compare failed requests. With neither this nor latency, both are compared."
    )
    latency: LatencySpec | None = Field(default=None, description="Compare the time to the answer's headers.")
    min_requests: int = Field(
        default=200, ge=1, le=MOST_REQUESTS, description="Nothing is said of a revision before it had so many."
    )

    policy: str = Field(
        default="sequential",
        pattern=SHORT_NAME,
        description="Who judges the requests: sequential, or a policy that the daemon's settings enable.",
    )
    baseline: Literal["stable", "fresh"] = Field(
        default="stable",
        description="What it is compared with: the old replicas as they are, or as many that start together with it.",
    )
    metrics: tuple[MetricSpec, ...] = Field(
        default=(), strict=False, max_length=20, description="Besides: numbers from the daemon's Prometheus server."
    )

    def metric_settings(self) -> tuple[Metric, ...]:
        """Return the metrics as the policies work with them."""
        return tuple(Metric(**metric.model_dump()) for metric in self.metrics)

    def settings(self) -> AnalysisSettings:
        """Return what the policies work with: what is written is compared, or everything when nothing is."""
        both = self.success_rate is None and self.latency is None
        rate, latency = self.success_rate, self.latency
        return AnalysisSettings(
            success_rate=SuccessRate(minimum=rate.min if rate else None) if rate or both else None,
            latency=_latency(latency or LatencySpec()) if latency or both else None,
            min_requests=self.min_requests,
            baseline=Baseline(self.baseline),
        )


def _latency(spec: LatencySpec) -> Latency:
    return Latency(quantile=spec.quantile / 100, max_increase=spec.max_increase)
