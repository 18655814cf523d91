"""Compaction over HTTP and on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from reconciler.cli.compaction import plan_text
from reconciler.cli.main import heliostat
from reconciler.errors import PortError, Retry, Stalled
from specs.compaction import CompactionStatus, DrainState, GivenUp, NodeDrain, PlannedMove, PlannedNode
from tests.unit.api.backends import NOW, MemoryBackend
from tests.unit.api.serving import TOKEN, Serving, serving


def planned(ip: str, *, goes: bool, why: str = "", replicas: int = 1) -> PlannedNode:
    return PlannedNode(
        node=f"id-{ip}", ip=ip, zone="a", market="spot", price=2.5, replicas=replicas, goes=goes, why=why
    )


STATUS = CompactionStatus(
    state="Draining",
    message="being emptied: 10.0.0.3 (1 replicas left)",
    enabled=True,
    at=NOW,
    cost=7.5,
    cost_after=5.0,
    bound=5.0,
    is_best=True,
    nodes=(planned("10.0.0.1", goes=True), planned("10.0.0.2", goes=False, why="it is the head", replicas=0)),
    moves=(PlannedMove(cell="chat.v1.-.-.0", deployment="Main", origin="10.0.0.1", target="10.0.0.2", count=1),),
    reserves=("1 x chat.v1.-.-.0#Main",),
    drains=(
        NodeDrain(
            node="n3",
            ip="10.0.0.3",
            since=NOW,
            state=DrainState.DRAINING,
            replicas=1,
            progress_at=NOW,
            patience=timedelta(seconds=90),
        ),
    ),
    given_up=(GivenUp(node="n4", ip="10.0.0.4", at=NOW, until=NOW, why="Ray refuses: busy"),),
    freed=2,
)


class Plans:
    def __init__(self) -> None:
        self.problem: PortError | None = None
        self.ordered: list[str] = []

    async def plan(self) -> CompactionStatus:
        if self.problem is not None:
            raise self.problem
        return STATUS

    async def order(self, by: str) -> int:
        if self.problem is not None:
            raise self.problem
        self.ordered.append(by)
        return 7


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Plans, Serving]]:
    plans = Plans()
    with serving(MemoryBackend(), compaction=plans) as running:
        yield plans, running


@pytest.fixture
def plans(served: tuple[Plans, Serving]) -> Plans:
    served[0].problem = None
    served[0].ordered.clear()
    return served[0]


@pytest.fixture
def client(served: tuple[Plans, Serving], plans: Plans) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[1].url, trust_env=False) as client:
        yield client


HEADERS = {"Authorization": f"Bearer {TOKEN}"}
APPLY = "/api/v1/compaction/apply"


def test_the_plan_is_told_node_by_node(client: httpx.Client) -> None:
    document = client.get("/api/v1/compaction").json()
    assert (document["state"], document["costAfter"], document["isBest"]) == ("Draining", 5, True)
    assert document["nodes"][1]["why"] == "it is the head"
    assert document["drains"][0]["state"] == "draining"


def test_an_order_needs_the_token_and_json(client: httpx.Client, plans: Plans) -> None:
    assert client.post(APPLY, json={}).status_code == 401
    assert client.post(APPLY, content="{}", headers=HEADERS).status_code == 415
    assert client.post(APPLY, json={"to": "x"}, headers=HEADERS).status_code == 400
    assert plans.ordered == []
    answer = client.post(APPLY, json={"by": "ada"}, headers=HEADERS)
    assert (answer.status_code, answer.json(), plans.ordered) == (202, {"event": 7}, ["ada"])


@pytest.mark.parametrize(("problem", "status"), [(Retry("Ray is away"), 503), (Stalled("the disk is full"), 409)])
def test_what_cannot_be_planned_is_said(client: httpx.Client, plans: Plans, problem: PortError, status: int) -> None:
    plans.problem = problem
    for answer in (client.get("/api/v1/compaction"), client.post(APPLY, json={}, headers=HEADERS)):
        assert answer.status_code == status
        assert problem.reason in answer.json()["detail"]


def test_before_compaction_is_there_the_answer_is_503() -> None:
    with serving(MemoryBackend()) as running:
        assert httpx.get(f"{running.url}/api/v1/compaction", trust_env=False).status_code == 503


Runs = Callable[..., Result]


@pytest.fixture
def run(served: tuple[Plans, Serving], plans: Plans, tmp_path: Path) -> Runs:
    environ = {"HELIOSTAT_SERVER": served[1].url, "HELIOSTAT_TOKEN": TOKEN, "XDG_STATE_HOME": str(tmp_path)}
    return lambda *arguments: CliRunner().invoke(heliostat, ["compaction", *arguments], env=environ)


def test_the_command_shows_what_goes_what_moves_and_why_no_more(run: Runs, plans: Plans) -> None:
    result = run()
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "Draining: being emptied: 10.0.0.3 (1 replicas left)",
        "nodes 2 now, 1 afterwards; 1 replicas move",
        "cost 7.5 now, 5 afterwards (33% less)",
        "bound no plan is cheaper than 5",
        "10.0.0.1 a 2.5 1 goes",
        "10.0.0.2 a 2.5 0 stays it is the head",
        "1 x Main of chat.v1.-.-.0 10.0.0.1 -> 10.0.0.2",
        "freed 2 node(s) so far",
    ):
        assert line in lines
    assert plans.ordered == []


def test_apply_gives_the_order_in_the_name_that_is_given(run: Runs, plans: Plans) -> None:
    result = run("--apply", "--by", "ada")
    assert (result.exit_code, plans.ordered) == (0, ["ada"])
    assert "event 7" in result.stdout


def test_json_is_the_document_of_the_api(run: Runs, client: httpx.Client) -> None:
    result = run("-o", "json")
    assert httpx.Response(200, text=result.stdout).json() == client.get("/api/v1/compaction").json()


def test_a_plan_that_may_not_be_the_best_says_how_far_off_it_may_be() -> None:
    text = plan_text(replace(STATUS, is_best=False, bound=4.0, gap=0.25))
    assert "no plan costs less than 4; this one is at most 25.0% above the best" in text
