"""Notices of nodes that are about to go, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from reconciler.errors import PortError, Retry, Stalled
from reconciler.preemption import Heard, UnknownNodeError
from specs.preemption import Preemption
from tests.unit.api.backends import NOW, MemoryBackend
from tests.unit.api.serving import TOKEN, Serving, serving

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PATH = "/api/v1/nodes/n1/preemption"
AT = "2026-11-29T18:00:00Z"


class Notices:
    def __init__(self) -> None:
        self.problem: PortError | None = None
        self.taken: list[tuple[str, datetime, str, str]] = []

    async def note(self, node: str, deadline: datetime, by: str, why: str = "") -> Heard:
        if self.problem is not None:
            raise self.problem
        if node != "n1":
            raise UnknownNodeError(node)
        self.taken.append((node, deadline, by, why))
        notice = Preemption(node=node, ip="10.0.0.1", noticed_at=NOW, announced=deadline, deadline=NOW, by=by, why=why)
        return Heard(notice=notice, event=7 if len(self.taken) == 1 else 0)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Notices, Serving]]:
    notices = Notices()
    with serving(MemoryBackend(), preemption=notices) as running:
        yield notices, running


@pytest.fixture
def notices(served: tuple[Notices, Serving]) -> Notices:
    served[0].problem = None
    served[0].taken.clear()
    return served[0]


@pytest.fixture
def client(served: tuple[Notices, Serving], notices: Notices) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[1].url, trust_env=False) as client:
        yield client


def test_a_notice_is_taken_with_who_sent_it_and_the_same_one_again_is_no_new_event(
    client: httpx.Client, notices: Notices
) -> None:
    given = {"deadline": "2026-11-29T19:00:00+01:00", "by": "aws-watcher", "why": "reclaimed"}
    answer = client.post(PATH, json=given, headers=HEADERS)
    assert (answer.status_code, answer.json()) == (202, {"event": 7, "node": "n1", "deadline": AT})
    assert notices.taken == [("n1", datetime(2026, 11, 29, 18, tzinfo=UTC), "aws-watcher", "reclaimed")]
    again = client.post(PATH, json={"deadline": AT}, headers=HEADERS)
    assert (again.status_code, again.json()["event"]) == (202, 0)
    assert notices.taken[1][2] == "operator", "without a name it is the token's"


def test_a_notice_needs_the_token_json_and_a_time(client: httpx.Client, notices: Notices) -> None:
    assert client.post(PATH, json={"deadline": AT}).status_code == 401
    assert client.post(PATH, content="{}", headers=HEADERS).status_code == 415
    times = ("soon", "2026-11-29T18:00:00", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00")
    for wrong in ({}, *({"deadline": time} for time in times), {"deadline": AT, "full": True}):
        assert client.post(PATH, json=wrong, headers=HEADERS).status_code == 400, wrong
    assert notices.taken == []


def test_an_unknown_node_is_404(client: httpx.Client) -> None:
    answer = client.post("/api/v1/nodes/n2/preemption", json={"deadline": AT}, headers=HEADERS)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "n2" in answer.json()["detail"]


@pytest.mark.parametrize(("problem", "status"), [(Retry("not seen yet"), 503), (Stalled("the disk is full"), 409)])
def test_what_cannot_be_remembered_is_said(
    client: httpx.Client, notices: Notices, problem: PortError, status: int
) -> None:
    notices.problem = problem
    answer = client.post(PATH, json={"deadline": AT}, headers=HEADERS)
    assert answer.status_code == status
    assert problem.reason in answer.json()["detail"]
