"""Weights are staged while a rollout runs, in whole stories: nothing waits for them, and no job is left behind."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

import policies.service
import policies.staging
import reconciler.planning.outgoing
from reconciler.errors import Retry, Stalled
from specs.canonical import canonical_json
from specs.desired import DesiredService
from specs.staging import StagingJob
from tests.builders import service, steps
from tests.sim.fake_jobs import Program
from tests.sim.world import Simulation

JOB = {"name": "j", "service": "chat", "revision": "v1", "uris": (), "nodes": (), "python": "python"}
URI = "s3://models/chat/model.safetensors"


def spec(version: str, **options: Any) -> DesiredService:
    made = {"steps": steps(20, "10", 60, "10"), "scale_down": 5, "max_request": 10, "stage": (URI,), **options}
    return service(version=version, sizes=2, **made)


async def begun(*, mood: str = "good", problem: Exception | None = None, **options: Any) -> Simulation:
    """Return a simulation in which v1 (without weights) serves, and v2 was just pushed."""
    sim = Simulation()
    await sim.start()
    sim.push(spec("v1", stage=()))
    await sim.settle()
    assert sim.jobs.starts == 0
    sim.jobs.mood, sim.jobs.problem = mood, problem  # type: ignore[assignment]
    sim.push(spec("v2", **options))
    return sim


def kinds(sim: Simulation) -> list[str]:
    return [event.kind for event in sim.events()]


async def good() -> None:
    sim = await begun()
    await sim.until(lambda: bool(sim.jobs.programs), within=10)
    (program,) = sim.jobs.programs.values()
    assert program.order.command == (f"python -m loaders.safetensors.stage_nodes --timeout=3600 -- {URI}")
    await sim.until(lambda: sim.status().staging.done > 0, within=10)
    staging = sim.status().staging
    assert (staging.revision, staging.uris, staging.state.value) == ("v2", (URI,), "running")
    assert staging.nodes == 3
    await sim.settle()
    assert sim.weights() == {"v2": 100}
    assert sim.jobs.starts == 1
    assert kinds(sim).count("WeightsStaged") == 1
    staging = sim.status().staging
    assert (staging.state.value, staging.done, staging.size, staging.ended) == ("done", 3000, 3000, 3)


async def bad() -> None:
    """A staging that fails is told of, once, and the rollout is what it would have been."""
    sim = await begun(mood="bad")
    await sim.settle()
    assert sim.weights() == {"v2": 100}
    assert kinds(sim).count("StagingFailed") == 1
    event = next(event for event in sim.events() if event.kind == "StagingFailed")
    assert event.is_warning
    assert "node1: forbids it (403)" in event.message
    assert sim.status().staging.state.value == "failed"
    assert sim.status().health.value == "Healthy"
    assert not sim.memory().quarantine


async def endless() -> None:
    """A rollout does not wait for its staging; what is not done by then is not needed any more."""
    sim = await begun(mood="endless")
    await sim.settle(within=200)
    assert sim.weights() == {"v2": 100}
    assert sim.jobs.running() == []


async def killed() -> None:
    """A daemon that dies at any moment finds the job that it began, and begins no second one."""
    sim = await begun(mood="endless", steps=steps(20, ""))
    await sim.until(lambda: bool(sim.jobs.programs), within=10)
    for _ in range(3):
        sim.kill()
        await sim.run(5)
        assert sim.status().staging.state.value == "running"
    assert sim.jobs.starts == 1
    sim.jobs.programs = {name: replace(found, mood="good") for name, found in sim.jobs.programs.items()}
    await sim.until(lambda: "WeightsStaged" in kinds(sim), within=30)
    sim.kill()
    await sim.run(10)
    assert kinds(sim).count("WeightsStaged") == 1
    assert sim.jobs.starts == 1
    assert sim.status().staging.state.value == "done"


async def superseded() -> None:
    """A newer commit ends the old staging, also when the daemon was away in between; other people's jobs go on."""
    sim = await begun(mood="endless", steps=steps(20, ""))
    await sim.until(lambda: bool(sim.jobs.programs), within=10)
    (first,) = sim.jobs.programs
    sim.jobs.foreign["theirs"] = Program(order=sim.jobs.programs[first].order, began=sim.clock.now(), mood="endless")
    sim.downtime = 5
    sim.kill()
    sim.push(spec("v3", stage=("s3://models/other.safetensors",)))
    await sim.until(lambda: len(sim.jobs.programs) == 2, within=60)
    await sim.run(5)
    assert first not in sim.jobs.running()
    assert len(sim.jobs.running()) == 2
    assert await sim.order("abort") == ""
    await sim.settle()
    assert sim.jobs.running() == ["theirs"]


NUMBERS = itertools.count()

STORIES = {"good": good, "bad": bad, "endless": endless, "killed": killed, "superseded": superseded}


@pytest.mark.parametrize("name", STORIES)
async def test_goes_as_told(name: str) -> None:
    await STORIES[name]()


MUTATIONS: dict[str, tuple[Any, str, Any, str]] = {
    "a job has another name after each look": (
        policies.staging,
        "job_of",
        lambda memory, job_of=policies.staging.job_of: f"{job_of(memory)}-{next(NUMBERS)}" if job_of(memory) else None,
        "killed",
    ),
    "what ended is not noted": (policies.service, "note_staged", lambda view: (), "good"),
    "an ended staging is noted at every look": (policies.staging, "is_over", lambda memory: False, "bad"),
    "jobs are left running": (
        reconciler.planning.outgoing,
        "staging_due",
        lambda plan, due=reconciler.planning.outgoing.staging_due: tuple(each for each in due(plan) if each.jobs),
        "endless",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS, ids=lambda name: name.replace(" ", "-"))
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, rule, broken, story = MUTATIONS[name]
    monkeypatch.setattr(owner, rule, broken)
    if rule == "staging_due":
        monkeypatch.setattr("reconciler.planning.compile.staging_due", broken)
    with pytest.raises(AssertionError):
        await STORIES[story]()


@pytest.mark.parametrize("problem", [Retry("Ray's jobs do not answer"), Stalled("Ray has no jobs")])
async def test_a_cluster_whose_jobs_cannot_be_asked_holds_no_rollout(problem: Exception) -> None:
    sim = await begun(problem=problem)
    await sim.until(lambda: sim.memory().candidate is not None)
    await sim.until(
        lambda: sim.status().staging is not None and str(problem) in sim.status().staging.message, within=20
    )
    await sim.settle(within=300)
    assert sim.weights() == {"v2": 100}
    assert sim.status().health.value == "Healthy"


async def test_a_head_that_is_started_anew_lost_the_job_and_it_is_begun_again() -> None:
    sim = await begun(mood="endless", steps=steps(20, ""))
    await sim.until(lambda: bool(sim.jobs.programs), within=10)
    sim.jobs.lose()
    await sim.until(lambda: sim.jobs.starts == 2, within=10)


async def test_weights_go_to_nodes_that_fit_with_the_replicas_environment_and_without_their_code() -> None:
    sim = Simulation()
    await sim.start()
    environment = {"env_vars": {"HELIOSTAT_CACHE_DIR": "/dev/shm/w", "KEY": "s3cret"}, "working_dir": "gcs://x.zip"}
    fitting = {"num_cpus": 1, "label_selector": {"ray.io/availability-zone": "b"}}
    sim.push(spec("v1", options=fitting, runtime_env=environment))
    await sim.until(lambda: bool(sim.jobs.programs), within=20)
    (program,) = sim.jobs.programs.values()
    assert " --nodes=node2 " in program.order.command
    assert program.order.runtime_env["env_vars"]["HELIOSTAT_CACHE_DIR"] == "/dev/shm/w"
    assert "working_dir" not in program.order.runtime_env
    assert "s3cret" not in repr(program.order)
    assert "s3cret" not in repr(StagingJob(**{**JOB, "runtime_env": canonical_json(environment)}))


async def test_where_no_node_fits_nothing_is_staged_and_it_is_said() -> None:
    sim = await begun(options={"num_gpus": 8})
    await sim.until(lambda: sim.status().staging is not None, within=10)
    await sim.run(10)
    assert sim.jobs.starts == 0
    assert sim.status().staging.message == "no node fits the revision"
