"""What every gate promises, played and over real HTTP; and how statuses and bodies are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from reconciler.adapters.gates import HttpGates
from reconciler.adapters.outbound import Outbound
from reconciler.errors import Retry, Stalled
from reconciler.ports import GateAnswer
from reconciler.settings import AllowedHost
from specs.effects import PostQuestion
from tests.local_http import Answer, LocalServer, hanging_up, never, saying, serving, without_end
from tests.sim.fake_clock import FakeClock
from tests.sim.fake_gates import FakeGates

BODY = json.dumps({"service": "chat", "revision": "b7710de40a12", "step": {"index": 0}})

MOODS: dict[str, Answer] = {
    "yes": saying(200),
    "no": saying(403, b'{"message": "not on a Friday"}'),
    "silent": never,
    "broken": saying(503),
    "garbage": saying(200, b'{"allow": "perhaps"}'),
}


def question(url: str = "http://localhost:9/", **fields: Any) -> PostQuestion:
    return PostQuestion(
        service="chat",
        gate="calendar",
        url=url,
        key=fields.get("key", "chat/b77/t/calendar/0.1"),
        failures=0,
        body=BODY,
        timeout=timedelta(seconds=fields.get("timeout", 5)),
    )


class Played:
    """The fake, whose clock moves on while it is asked."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeGates(self.clock)

    def mood(self, mood: str) -> None:
        self.fake.mood = mood

    async def ask(self, timeout: float = 5) -> GateAnswer:
        asking = asyncio.ensure_future(self.fake.ask(question(timeout=timeout)))
        while not asking.done():
            await asyncio.sleep(0)
            self.clock.jump(timedelta(seconds=1))
            self.fake.step()
        return await asking


class Real:
    """The adapter, and a server that answers."""

    def __init__(self, server: LocalServer, outbound: Outbound) -> None:
        self.server, self.outbound, self.is_forbidden = server, outbound, False

    def mood(self, mood: str) -> None:
        self.is_forbidden = mood == "forbidden"
        self.server.answer = MOODS.get(mood, MOODS["yes"])

    async def ask(self, timeout: float = 5) -> GateAnswer:
        host = "127.0.0.1" if self.is_forbidden else "localhost"
        return await HttpGates(self.outbound).ask(question(f"http://{host}:{self.server.port}/", timeout=timeout))


@pytest.fixture(params=["fake", "real"])
async def gates(request: pytest.FixtureRequest) -> AsyncIterator[Played | Real]:
    if request.param == "fake":
        yield Played()
        return
    async with serving(saying(200)) as server, Outbound([AllowedHost(host="localhost", port=server.port)]) as outbound:
        yield Real(server, outbound)


async def test_a_no_is_an_answer(gates: Played | Real) -> None:
    gates.mood("no")
    assert await gates.ask() == GateAnswer(is_yes=False, message="not on a Friday")


async def test_a_yes_is_an_answer(gates: Played | Real) -> None:
    gates.mood("yes")
    assert (await gates.ask()).is_yes


@pytest.mark.parametrize("mood", ["silent", "broken", "garbage"])
async def test_what_cannot_be_read_as_an_answer_may_be_tried_again(gates: Played | Real, mood: str) -> None:
    gates.mood(mood)
    with pytest.raises(Retry):
        await gates.ask(timeout=0.3)


async def test_a_host_that_is_not_allowed_needs_a_person(gates: Played | Real) -> None:
    gates.mood("forbidden")
    with pytest.raises(Stalled, match="do not allow this host"):
        await gates.ask()


# -- HTTP alone -------------------------------------------------------------------------------------------------


async def over_http(answer: Answer, *, timeout: float = 5) -> tuple[GateAnswer, LocalServer]:
    async with serving(answer) as server, Outbound([AllowedHost(host="localhost", port=server.port)]) as outbound:
        asked = question(f"http://localhost:{server.port}/hook", timeout=timeout)
        return await HttpGates(outbound).ask(asked), server


async def test_a_question_is_one_post_with_its_key_twice() -> None:
    answer, server = await over_http(saying(204))
    assert answer == GateAnswer(is_yes=True)
    (heard,) = server.heard
    assert (heard.method, heard.path) == ("POST", "/hook")
    assert heard.headers["idempotency-key"] == "chat/b77/t/calendar/0.1"
    assert heard.headers["content-type"] == "application/json"
    assert json.loads(heard.body) == {"id": "chat/b77/t/calendar/0.1", **json.loads(BODY)}


@pytest.mark.parametrize(
    ("status", "body", "is_yes", "message"),
    [
        (200, b"", True, ""),
        (200, b"ok", True, "ok"),
        (200, b"{}", True, ""),
        (202, b'{"allow": true, "message": "go"}', True, "go"),
        (200, b'{"allow": false, "reason": "frozen"}', False, "frozen"),
        (200, b"<html>fine</html>", True, ""),
        (400, b"", False, "it answered 400"),
        (403, b"no\x1b[2J\nway", False, "no [2J way"),
        (404, b"{broken", False, "it answered 404"),
        (409, b'{"title": "Conflict", "detail": "two at once"}', False, "two at once"),
    ],
)
async def test_statuses_and_bodies_are_answers(status: int, body: bytes, is_yes: bool, message: str) -> None:
    answer, _ = await over_http(saying(status, body))
    assert answer == GateAnswer(is_yes=is_yes, message=message)


async def test_a_long_message_is_cut() -> None:
    answer, _ = await over_http(saying(403, b"x" * 5000))
    assert len(answer.message) == 300


@pytest.mark.parametrize(
    "answer",
    [
        saying(408),
        saying(425),
        saying(429),
        saying(500),
        saying(502, b"<html>"),
        saying(199),
        saying(200, b'{"allow": 1}'),
        saying(200, b'{"allow": null}'),
        saying(200, b'{"allow": true'),
        saying(200, b'{"a":' * 5000),
        hanging_up,
        without_end,
    ],
)
async def test_everything_else_is_no_answer(answer: Answer) -> None:
    with pytest.raises(Retry):
        await over_http(answer, timeout=2)


async def test_a_redirect_needs_a_person() -> None:
    with pytest.raises(Stalled, match="redirects"):
        await over_http(saying(307, Location="http://169.254.169.254/"))
