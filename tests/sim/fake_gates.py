"""Gates that answer as they are told, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime

from reconciler.errors import Retry, Stalled
from reconciler.ports import Clock, GateAnswer
from specs.desired import SetWeight
from specs.effects import PostQuestion
from specs.gates import GateAt, GateKind
from specs.memory import ServiceMemory

MOODS = ("yes", "no", "silent", "broken", "garbage", "forbidden", "slow")


class FakeGates:
    """Implements `reconciler.ports.Gates`.

    `mood` is how every gate answers, `moods` how single ones do, by name. Silent ones let the caller's time-out
    pass, slow ones half of it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.mood = "yes"
        self.moods: dict[str, str] = {}
        self.asked: list[PostQuestion] = []
        self.answers: dict[str, GateAnswer] = {}
        """The last answer by key: a repeat gets the same one, as from a gate that heeds idempotency keys."""
        self.yes: set[tuple[str, str, str, int]] = set()
        """(service, revision, gate, step) that were let pass."""
        self.watch: Callable[[PostQuestion], None] = lambda question: None
        self._waiting: list[tuple[datetime, asyncio.Future[None]]] = []

    async def ask(self, question: PostQuestion) -> GateAnswer:
        self.watch(question)
        self.asked.append(question)
        known = self.answers.get(question.key)
        return known if known is not None else await self._answer(question)

    def step(self) -> None:
        """Time has passed: let go who waited long enough."""
        now = self._clock.now()
        for at, waiter in self._waiting:
            if at <= now and not waiter.done():
                waiter.set_result(None)
        self._waiting = [(at, waiter) for at, waiter in self._waiting if not waiter.done()]

    async def _answer(self, question: PostQuestion) -> GateAnswer:
        match self.moods.get(question.gate, self.mood):
            case "silent":
                await self._wait(question, 1.0)
                raise Retry("did not answer within the timeout.")
            case "broken":
                raise Retry("answered 503.")
            case "garbage":
                raise Retry('answered 200 with an "allow" that is neither true nor false.')
            case "forbidden":
                raise Stalled("is not called: the daemon's settings do not allow this host.")
            case "no":
                return self._said(question, GateAnswer(is_yes=False, message="not on a Friday"))
            case "slow":
                await self._wait(question, 0.5)
        return self._said(question, GateAnswer(is_yes=True))

    def _said(self, question: PostQuestion, answer: GateAnswer) -> GateAnswer:
        self.answers[question.key] = answer
        if answer.is_yes:
            body = json.loads(question.body)
            self.yes.add((body["service"], body["revision"], question.gate, body["step"]["index"]))
        return answer

    async def _wait(self, question: PostQuestion, share: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((self._clock.now() + question.timeout * share, waiter))
        await waiter


def confirmed_weight(memory: ServiceMemory, candidate: str, yes: set[tuple[str, str, str, int]]) -> int:
    """Return the weight of the last step before the first one that some gate did not let pass, in basis points."""
    gates = [gate for gate in memory.wanted.rollout.gates if gate.kind is GateKind.CONFIRM]
    told = {(name, step) for service, revision, name, step in yes if (service, revision) == (memory.name, candidate)}
    names, steps, reached = {name for name, _ in told}, memory.wanted.rollout.steps, 0
    for index, step in enumerate((*steps, SetWeight(weight=100))):
        if not isinstance(step, SetWeight):
            continue
        is_step, is_last = index < len(steps), step.weight == 100
        asked = [(gate.name, index) in told for gate in gates if gate.at is GateAt.BEFORE_STEP and is_step]
        asked += [gate.name in names for gate in gates if gate.at is GateAt.BEFORE_PROMOTION and is_last]
        if not all(asked):
            break
        reached = step.weight * 100
    return reached
