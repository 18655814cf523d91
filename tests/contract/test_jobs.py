"""What the cluster's jobs promise: the fake, and Ray's own."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import httpx
import pytest

from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.ray_rest import RayRest
from reconciler.embedded import EmbeddedCluster
from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Job, JobOrder, Jobs
from tests.sim.fake_clock import FakeClock
from tests.sim.fake_jobs import FakeJobs

QUICK = "echo said $WORD; echo more"
ENDLESS = "echo begun; sleep 600"
FAILING = "echo oh no; exit 3"


class Played:
    """The fake, whose time passes while one waits. A command's mood is told by what it does."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.jobs: Jobs = FakeJobs(self.clock)

    async def start(self, order: JobOrder) -> None:
        assert isinstance(self.jobs, FakeJobs)
        self.jobs.mood = {QUICK: "good", ENDLESS: "endless", FAILING: "bad"}[order.command]
        await self.jobs.start(order)

    async def wait(self) -> None:
        self.clock.jump(timedelta(seconds=5))


class Real:
    """Ray's jobs."""

    def __init__(self, rest: RayRest) -> None:
        self.jobs: Jobs = RayJobs(rest, owner="contract")

    async def start(self, order: JobOrder) -> None:
        await self.jobs.start(order)

    async def wait(self) -> None:
        await asyncio.sleep(0.2)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.ray)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Played | Real]:
    if request.param == "fake":
        yield Played()
        return
    ray: EmbeddedCluster = request.getfixturevalue("ray_cluster")
    async with RayRest(ray.dashboard_url) as rest:
        yield Real(rest)


def order(command: str) -> JobOrder:
    return JobOrder(id=f"contract-{secrets.token_hex(4)}", command=command, runtime_env={"env_vars": {"WORD": "hello"}})


async def until(cluster: Played | Real, holds: Callable[[], Awaitable[bool]], *, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not await holds():
        assert time.monotonic() < deadline
        await cluster.wait()


async def ended(cluster: Played | Real, job: str) -> Job:
    async def holds() -> bool:
        found = await cluster.jobs.look(job)
        return found is not None and found.ended

    await until(cluster, holds)
    found = await cluster.jobs.look(job)
    assert found is not None
    return found


async def test_a_program_runs_to_its_end_once_however_often_it_is_started(cluster: Played | Real) -> None:
    wanted = order(QUICK)
    assert await cluster.jobs.look(wanted.id) is None
    assert await cluster.jobs.output(wanted.id) == ""
    await cluster.start(wanted)
    await cluster.start(wanted)
    found = await ended(cluster, wanted.id)
    assert found == Job(id=wanted.id, ended=True, succeeded=True, message=found.message)
    await cluster.start(wanted)
    assert await ended(cluster, wanted.id) == found
    printed = await cluster.jobs.output(wanted.id)
    if isinstance(cluster, Real):
        assert printed.count("said hello") == 1
    assert [job.id for job in await cluster.jobs.own()].count(wanted.id) == 1


async def test_a_program_that_fails_has_not_succeeded_and_its_words_are_kept(cluster: Played | Real) -> None:
    wanted = order(FAILING)
    await cluster.start(wanted)
    found = await ended(cluster, wanted.id)
    assert not found.succeeded
    assert "exit code" in found.message
    assert await cluster.jobs.output(wanted.id)


async def test_a_program_is_stopped_and_to_stop_it_again_or_one_that_never_was_changes_nothing(
    cluster: Played | Real,
) -> None:
    wanted = order(ENDLESS)
    await cluster.start(wanted)

    async def begun() -> bool:
        return bool(await cluster.jobs.output(wanted.id))

    await until(cluster, begun)
    assert wanted.id in [job.id for job in await cluster.jobs.own() if not job.ended]
    await cluster.jobs.stop(wanted.id)
    assert not (await ended(cluster, wanted.id)).succeeded
    await cluster.jobs.stop(wanted.id)
    await cluster.jobs.stop("nobody-knows-it")


@pytest.mark.ray
async def test_other_people_s_jobs_are_not_one_s_own(ray_cluster: EmbeddedCluster) -> None:
    async with RayRest(ray_cluster.dashboard_url) as rest:
        mine, theirs = RayJobs(rest, owner="mine"), RayJobs(rest, owner="theirs")
        wanted = order(QUICK)
        await theirs.start(wanted)
        answer = await rest.send("POST", "/api/jobs/", body={"entrypoint": "true"})
        assert answer.status == 200
        assert await mine.own() == ()
        assert [job.id for job in await theirs.own()] == [wanted.id]
        await ended(Real(rest), wanted.id)


# -- HTTP alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"), [(400, Stalled), (403, Stalled), (501, Stalled), (500, Retry), (503, Retry)]
)
async def test_what_the_dashboard_refuses_is_told_in_the_words_of_the_ports(
    status: int, error: type[PortError]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        known = request.method == "GET" and request.url.path.endswith("/new")
        return httpx.Response(404 if known else status, text="no")

    async with RayRest("http://ray.test", transport=httpx.MockTransport(answer)) as rest:
        jobs = RayJobs(rest, owner="me")
        calls = (jobs.own, lambda: jobs.look("x"), lambda: jobs.output("x"), lambda: jobs.stop("x"))
        for call in (*calls, lambda: jobs.start(JobOrder(id="new", command="true"))):
            with pytest.raises(error):
                await call()
