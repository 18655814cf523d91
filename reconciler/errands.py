"""Calls to others that must not delay a turn: they run beside the loop, and their outcomes wait for the next look.

At most one per question or measurement is under way. An outcome is kept until what it belongs to is no longer
remembered, so that a look whose Memory could not be saved loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Set
from dataclasses import replace
from functools import partial
from typing import Any, assert_never

from reconciler.errors import PortError
from reconciler.planning.outgoing import STAGING, advice_slot
from reconciler.ports import Ports
from reconciler.stagings import Stagings
from specs.effects import ConsultPolicy, MeasureMetric, PostQuestion, TendStaging
from specs.gates import GateReply, GateVerdict
from specs.metric_readings import MetricOutcome, MetricReading
from specs.outward import Outward
from specs.wishes import Advice, read_advice

Errand = Callable[[], Coroutine[Any, Any, None]]


class Errands:
    """What was sent out and what came back. `wake` is called at each return."""

    def __init__(self, ports: Ports, wake: Callable[[], None]) -> None:
        """Nothing runs until `run` does."""
        self._gates = ports.gates
        self._metrics = ports.metrics
        self._advisers = ports.advisers
        self._stagings = Stagings(ports.jobs)
        self._wake = wake
        self._waiting: list[Errand] = []
        self._begun = asyncio.Event()
        self._under_way: set[str] = set()
        self._replies: dict[str, GateReply] = {}
        self._readings: dict[str, MetricReading] = {}
        self._advice: dict[tuple[str, str], Advice] = {}

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

    def begin(self, wanted: PostQuestion | MeasureMetric | ConsultPolicy | TendStaging) -> None:
        """Begin an errand, unless the last one of its slot is still under way."""
        match wanted:
            case PostQuestion(key=key):
                self._begin(key, partial(self._ask, wanted))
            case MeasureMetric(slot=slot):
                self._begin(slot, partial(self._measured, wanted))
            case ConsultPolicy(policy=policy):
                self._begin(policy, partial(self._consulted, wanted))
            case TendStaging():
                self._begin(STAGING, partial(self._stagings.tend, wanted))
            case _:
                assert_never(wanted)

    def seen(self) -> Outward:
        """Return what is under way and what came back."""
        return Outward(
            under_way=frozenset(self._under_way),
            replies=tuple(self._replies.values()),
            readings=tuple(self._readings.values()),
            policies=self._advisers.enabled,
            advice=tuple(self._advice.values()),
            stagings=self._stagings.seen(),
            swept=self._stagings.swept,
        )

    def keep(self, slots: Set[str]) -> None:
        """Forget the outcomes of everything else."""
        self._replies = {key: reply for key, reply in self._replies.items() if key in slots}
        self._readings = {slot: reading for slot, reading in self._readings.items() if slot in slots}
        self._advice = {key: said for key, said in self._advice.items() if advice_slot(*key) in slots}
        self._stagings.keep(slots)

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

    async def _consulted(self, wanted: ConsultPolicy) -> None:
        """Take what a policy wishes for each service; what is no wish is that service's trouble alone."""
        try:
            answers = await self._advisers.consult(
                wanted.policy, {name: name for name in wanted.services}, wanted.world
            )
            said = {name: read_advice(_unsaid(wanted, name), answers.get(name)) for name in wanted.services}
        except PortError as error:
            said = {name: replace(_unsaid(wanted, name), problem=error.reason) for name in wanted.services}
        self._advice |= {(wanted.policy, name): advice for name, advice in said.items()}


def _unsaid(wanted: ConsultPolicy, service: str) -> Advice:
    revision = wanted.services[service]
    return Advice(policy=wanted.policy, service=service, revision=revision, at=wanted.world.now)
