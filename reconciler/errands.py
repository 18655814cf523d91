"""Calls to others that must not delay a turn: they run beside the loop, and their outcomes wait for the next look.

At most one per question or measurement is under way. An outcome is kept until what it belongs to is no longer
remembered, so that a look whose Memory could not be saved loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Set
from dataclasses import replace
from functools import partial
from typing import Any

from reconciler.errors import PortError
from reconciler.ports import Gates, MetricsServer
from specs.effects import MeasureMetric, PostQuestion
from specs.gates import GateReply, GateVerdict
from specs.metric_readings import MetricOutcome, MetricReading
from specs.outward import Outward

Errand = Callable[[], Coroutine[Any, Any, None]]


class Errands:
    """What was sent out and what came back. `wake` is called at each return."""

    def __init__(self, gates: Gates, metrics: MetricsServer, wake: Callable[[], None]) -> None:
        """Nothing runs until `run` does."""
        self._gates = gates
        self._metrics = metrics
        self._wake = wake
        self._waiting: list[Errand] = []
        self._begun = asyncio.Event()
        self._under_way: set[str] = set()
        self._replies: dict[str, GateReply] = {}
        self._readings: dict[str, MetricReading] = {}

    async def run(self) -> None:
        """Run errands until cancelled; those under way are given up then."""
        async with asyncio.TaskGroup() as group:
            while True:
                for errand in self.take():
                    group.create_task(errand())
                await self._begun.wait()

    def take(self) -> list[Errand]:
        """Return the errands that nobody runs yet: whoever takes them does."""
        self._begun.clear()
        taken, self._waiting = self._waiting, []
        return taken

    def post(self, question: PostQuestion) -> None:
        """Begin to ask a gate, unless that very question is on its way."""
        self._begin(question.key, partial(self._ask, question))

    def measure(self, wanted: MeasureMetric) -> None:
        """Begin a measurement, unless the last one of this metric is still on its way."""
        self._begin(wanted.slot, partial(self._measured, wanted))

    def seen(self) -> Outward:
        """Return what is under way and what came back."""
        return Outward(
            under_way=frozenset(self._under_way),
            replies=tuple(self._replies.values()),
            readings=tuple(self._readings.values()),
        )

    def keep(self, slots: Set[str]) -> None:
        """Forget the outcomes of everything else."""
        self._replies = {key: reply for key, reply in self._replies.items() if key in slots}
        self._readings = {slot: reading for slot, reading in self._readings.items() if slot in slots}

    def _begin(self, slot: str, errand: Errand) -> None:
        if slot not in self._under_way:
            self._under_way.add(slot)
            self._waiting.append(partial(self._do, slot, errand))
            self._begun.set()

    async def _do(self, slot: str, errand: Errand) -> None:
        try:
            await errand()
        finally:
            self._under_way.discard(slot)
        self._wake()

    async def _ask(self, question: PostQuestion) -> None:
        try:
            answer = await self._gates.ask(question)
            verdict, message = GateVerdict.YES if answer.is_yes else GateVerdict.NO, answer.message
        except PortError as error:
            verdict, message = GateVerdict.NOTHING, error.reason
        self._replies[question.key] = GateReply(
            key=question.key, failures=question.failures, verdict=verdict, message=message
        )

    async def _measured(self, wanted: MeasureMetric) -> None:
        reading = MetricReading(slot=wanted.slot, asked_at=wanted.asked_at, outcome=MetricOutcome.ERROR)
        try:
            found = await self._metrics.query(wanted.query)
            outcome = MetricOutcome.NOTHING if found.value is None else MetricOutcome.VALUE
            reading = replace(reading, outcome=outcome, value=found.value, message=found.message)
        except PortError as error:
            reading = replace(reading, message=error.reason)
        self._readings[wanted.slot] = reading
