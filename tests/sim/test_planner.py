"""Plans on the live state, from files as users write them to what they are told, with a cluster in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest

from reconciler.cli.plan_markdown import markdown
from reconciler.cli.plan_text import text
from reconciler.errors import Stalled
from reconciler.planner import Folder, Planner, Proposal
from reconciler.planning.live_state import live_state
from reconciler.planning.moment import Surroundings
from reconciler.planning.pace import pace_of
from reconciler.planning.preview import Question, predict
from specs.desired import Commit, PackageRef, Unread, Unreadable
from specs.memory import Event, OperatorPause
from specs.parse import SpecReader, Specs
from specs.planned import Action, PlannedChange
from specs.predicted import Ending, Prediction
from tests.builders import GATEWAY_URL, NOW, seconds
from tests.sim.serve_model import Timing
from tests.sim.world import Simulation

SPEC = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec:
  maxRequestDuration: 20s
  application:
    import_path: app:build
    args: {version: v1, build_seconds: 4, start_seconds: 2, secret_token: s3cret}
    runtime_env: {env_vars: {KEY: s3cret}}
    deployments: [{name: Echo, num_replicas: 3, ray_actor_options: {num_cpus: 0.5}}]
  rollout: {maxSurge: 1, minReady: 0s, scaleDownDelay: 5s, steps: [{setWeight: 50}, {pause: {duration: 30s}}]}
"""
PACKAGED = SPEC.replace("runtime_env: {", "runtime_env: {working_dir: ., ")


class NoFolders:
    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        return None


class Pushed:
    """`reconciler.planner.Commits` over what was pushed."""

    def __init__(self) -> None:
        self.specs: dict[str, Specs] = {}
        self.pinned: str | None = None

    def add(self, commit: Commit, files: Mapping[str, bytes]) -> None:
        self.specs[commit.sha] = SpecReader().read(commit, files, NoFolders())

    async def specs_at(self, commit: str) -> Specs:
        if commit not in self.specs:
            raise Stalled(f"there is no commit {commit}")
        return self.specs[commit]

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        return {}

    async def pin(self, commit: str) -> None:
        self.pinned = commit

    async def release(self) -> str | None:
        return self.pinned


async def planner_of(sim: Simulation, spec: str = SPEC) -> Planner:
    commits = Pushed()
    files = {"chat.yaml": spec.encode()}
    commits.add(sim.source.push_files(files), files)
    await sim.run(2)
    await sim.until(lambda: sim.known() is not None and sim.is_settled())
    assert sim.tick is not None
    return Planner(
        commits=commits, store=sim.store, surroundings=Surroundings(gateway_url=GATEWAY_URL), world=sim.tick.world
    )


async def planned(planner: Planner, spec: str, **rest: object) -> PlannedChange:
    proposal = Proposal(commit="f" * 40, subject="Change", **{"files": {"chat.yaml": spec.encode()}, **rest})
    found = await planner.plan(proposal)
    assert found is not None
    return found


async def test_a_proposal_is_compared_with_what_is_live_and_its_rollout_predicted() -> None:
    planner = await planner_of(Simulation())
    change = await planned(planner, SPEC.replace("version: v1", "version: v2"))
    assert [(service.name, service.action) for service in change.services] == [("chat", Action.ROLL)]
    prediction = change.prediction
    assert prediction is not None
    (chat,) = prediction.services
    assert chat.ending is Ending.DONE
    assert chat.peak == {"Echo": 4}
    assert len(chat.restarts) == 3
    cpu = next(resource for resource in prediction.resources if resource.name == "CPU")
    assert (cpu.now, cpu.peak) == (1.5, 2.0)
    assert prediction.assumptions == ("chat: 7 s to build and start, as in its last rollouts",)


async def test_the_words_tell_it_and_no_secret() -> None:
    planner = await planner_of(Simulation())
    change = await planned(planner, SPEC.replace("version: v1", "version: v2").replace("KEY: s3cret", "KEY: s3cret2"))
    for form in (text(change), markdown(change)):
        assert "at most 4 replicas at once, everything fits now" in form
        assert "Echo 3 -> 4" in form
        assert "CPU: 1.5 now, 2 at the peak, of 300" in form
        assert "takes all requests" in form
        assert "s3cret" not in form
    assert text(change).splitlines()[-1] == "Plan: 0 to add, 1 to change, 0 to destroy, 0 on hold"


async def test_nothing_changes_when_what_is_live_is_proposed() -> None:
    planner = await planner_of(Simulation())
    change = await planned(planner, SPEC)
    assert change.is_empty
    assert await planner.plan(None) is await planner.plan(None), "however many ask, it is worked out once"
    assert change.prediction is not None
    assert change.prediction.services == ()
    assert (await planner.plan(None)) is not None


async def test_what_takes_long_to_work_out_is_told_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is open to everybody by default: whoever only asks must not keep a core busy."""
    planner, passed = await planner_of(Simulation()), [0.0]
    clock = asyncio.get_running_loop().time

    def slow(question: Question) -> Prediction:
        passed[0] += 40
        return predict(question)

    monkeypatch.setattr("reconciler.planner.predict", slow)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock() + passed[0])
    first = await planner.plan(None)
    passed[0] += 4 * 40 - 20
    assert await planner.plan(None) is first
    passed[0] += 40
    assert await planner.plan(None) is not first


async def test_a_spec_that_cannot_be_read_is_no_removal() -> None:
    planner = await planner_of(Simulation())
    gone = await planned(planner, SPEC, files={}, unread=())
    assert [(one.action, one.holds[0].reason.value) for one in gone.services] == [(Action.DESTROY, "PruneDisabled")]
    folder = Unread(path="chat.yaml", kind=Unreadable.SUBMODULE, is_spec=False)
    change = await planned(planner, SPEC, files={}, unread=(folder,))
    assert [(one.action, one.holds[0].reason.value) for one in change.services] == [(Action.KEEP, "InvalidSpec")]
    assert change.errors[0].path == "chat.yaml"


async def test_a_plan_of_a_commit_whose_policy_cannot_be_read_reckons_with_the_one_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Question] = []
    monkeypatch.setattr("reconciler.planner.predict", lambda question: asked.append(question) or predict(question))
    sim = Simulation()
    planner = await planner_of(sim)
    policy = "apiVersion: heliostat.dev/v1alpha1\nkind: ClusterPolicy\nmetadata: {name: p}\n"
    files = {"chat.yaml": SPEC.encode(), "rules/p.yaml": f"{policy}spec: {{budget: {{maxServicesMoving: 2}}}}".encode()}
    planner.commits.add(sim.source.push_files(files), files)  # type: ignore[attr-defined]
    await sim.run(5)
    assert sim.tick is not None
    planner.world = sim.tick.world
    for unread, moving in (((), 5), ((Unread(path="rules", kind=Unreadable.SUBMODULE, is_spec=False),), 2)):
        change = await planned(planner, SPEC.replace("version: v1", "version: v2"), unread=unread)
        assert [error.path for error in change.errors] == [place.path for place in unread]
        assert asked.pop().desired.settings.max_services_moving == moving


async def test_a_quarantined_revision_is_told_as_on_hold() -> None:
    sim = Simulation()
    planner = await planner_of(sim)
    files = {
        "chat.yaml": SPEC.replace("version: v1", "version: v2")
        .replace("args: {", "args: {fail_build: broken, ")
        .encode()
    }
    planner.commits.add(sim.source.push_files(files), files)  # type: ignore[attr-defined]
    await sim.until(lambda: bool(sim.memory().quarantine))
    await sim.run(90)
    assert sim.tick is not None
    planner.world = sim.tick.world
    change = await planner.plan(None)
    assert change is not None
    assert change.prediction is not None
    (chat,) = change.prediction.services
    assert chat.ending is Ending.HELD
    assert [hold.reason.value for hold in chat.holds] == ["Quarantined"]


async def test_deployments_that_the_spec_does_not_list_are_told_as_they_were_seen() -> None:
    both = SPEC.replace("args: {", "args: {deployments: {Echo: 1, Backend: 2}, ingress: Echo, ")
    planner = await planner_of(Simulation(), both)
    (chat,) = (await planned(planner, both.replace("version: v1", "version: v2"))).services
    (warning,) = chat.warnings
    assert warning.startswith("Backend is not listed: the new revision starts it at its code's count (2 in the one")
    listed = both.replace("deployments: [{", "deployments: [{name: Backend, num_replicas: 2}, {")
    assert (await planned(planner, listed)).services[0].warnings == ()
    scaled = both.replace("num_replicas: 3", "num_replicas: 4")
    assert (await planned(planner, scaled)).services[0].warnings == ()


async def test_a_folder_that_the_asker_packages_is_known_by_its_id() -> None:
    planner = await planner_of(Simulation())
    without = await planned(planner, PACKAGED)
    assert "no folder" in without.errors[0].message
    known = await planned(planner, PACKAGED, folders=(Folder(path="", keep_folder=False, tree="a" * 40),))
    assert known.errors == ()
    assert known.services[0].action is Action.ROLL


async def test_a_commit_that_the_repository_lacks_is_said() -> None:
    planner = await planner_of(Simulation())
    with pytest.raises(Stalled, match="there is no commit"):
        await planner.plan(Proposal(commit="e" * 40))


async def test_before_anything_was_seen_there_is_no_plan() -> None:
    assert (
        await Planner(commits=Pushed(), store=Simulation().store, surroundings=Surroundings(gateway_url="")).plan(None)
        is None
    )


async def test_the_state_has_another_name_when_a_rollout_moves_on_and_the_same_while_it_rests() -> None:
    sim = Simulation()
    planner = await planner_of(sim)
    assert planner.world is not None
    before = live_state(planner.world.memory)
    await sim.run(60)
    assert sim.tick is not None
    assert live_state(sim.tick.compiled.memory) == before
    files = {"chat.yaml": SPEC.replace("version: v1", "version: v2").encode()}
    sim.source.push_files(files)
    await sim.run(3)
    assert live_state(sim.tick.compiled.memory) != before


async def test_how_long_replicas_take_is_learned_from_the_last_rollouts() -> None:
    sim = Simulation()
    await planner_of(sim)
    service = sim.memory().wanted
    at = NOW
    events = [
        Event(at=at, service="chat", kind="CellCreated", message="", revision="aaa"),
        Event(at=at + seconds(1), service="chat", kind="WeightsChanged", message="none yet"),
        Event(at=at + seconds(40), service="chat", kind="WeightsChanged", message="aaa 100%"),
    ]
    pace, said = pace_of(service, events)
    assert pace.build + pace.start == timedelta(seconds=40)
    assert "40 s" in said
    waits = replace(service, rollout=replace(service.rollout, min_ready=seconds(15)))
    assert pace_of(waits, events)[0].build + pace_of(waits, events)[0].start == timedelta(seconds=25)
    assert "no rollout of it is remembered" in pace_of(service, [])[1]


def left_after(gone: float) -> list[Event]:
    """Return the events of a rollout whose old revision was retired so long after it had lost its weight."""
    return [
        Event(at=NOW, service="chat", kind="CellCreated", message="", revision="aaa"),
        Event(at=NOW + seconds(9), service="chat", kind="WeightsChanged", message="old 50%, aaa 50%"),
        Event(at=NOW + seconds(20), service="chat", kind="WeightsChanged", message="aaa 100%"),
        Event(at=NOW + seconds(20 + gone), service="chat", kind="CellRetired", message="", revision="old"),
    ]


@pytest.mark.parametrize(
    ("gone", "answer"),
    [(7, 0), (16, 16), (300, 20)],
    ids=["kept warm for 5 s anyway", "waited for requests", "no longer than requests may last"],
)
async def test_how_long_last_requests_go_on_is_learned_where_it_was_waited_for_them(gone: float, answer: float) -> None:
    sim = Simulation()
    await planner_of(sim)
    pace, said = pace_of(sim.memory().wanted, left_after(gone))
    assert pace.answer == timedelta(seconds=answer)
    assert (f"{answer} s until the last requests" in said) == (answer > 0)


async def test_what_was_learned_of_one_rollout_tells_how_long_the_next_takes() -> None:
    """But for the last replicas: the simulation stops idle ones no faster than busy ones."""
    sim = Simulation(timing=Timing(drain=timedelta(seconds=12)))
    sim.watch.requests.durations = (12.0, 12.0)
    planner = await planner_of(sim)
    for version in ("v2", "v3"):
        text = SPEC.replace("version: v1", f"version: {version}")
        predicted = (await planned(planner, text)).prediction
        begun = sim.clock.now()
        sim.source.push_files({"chat.yaml": text.encode()})
        await sim.run(3)
        await sim.until(sim.is_settled)
        took = (sim.clock.now() - begun).total_seconds() - (12 - 3)
        assert sim.tick is not None
        planner.world = sim.tick.world
        commit = sim.tick.world.desired.commit if sim.tick.world.desired else None
        assert commit is not None
        cast("Pushed", planner.commits).add(commit, {"chat.yaml": text.encode()})
    assert predicted is not None
    assert predicted.duration is not None
    assert predicted.duration.total_seconds() == pytest.approx(took, abs=4)


async def test_a_rollout_under_way_goes_at_the_pace_of_the_ones_before() -> None:
    planner = await planner_of(Simulation())
    assert planner.world is not None
    memory = planner.world.memory.services["chat"]
    moving = replace(memory, wanted=replace(memory.wanted, revision=replace(memory.wanted.revision, id="next")))
    world = replace(planner.world, memory=replace(planner.world.memory, services={"chat": moving}))
    assert world.desired is not None
    question = await planner._question(world, replace(world.desired, services=(moving.wanted,)))
    assert question.paces["chat"].build + question.paces["chat"].start == timedelta(seconds=7)


async def test_a_plan_is_applied_only_while_nothing_has_moved() -> None:
    sim = Simulation()
    planner = await planner_of(sim)
    change = await planned(planner, SPEC.replace("version: v1", "version: v2"))
    assert change.prediction is not None
    base, live = change.base.sha, change.prediction.live
    with pytest.raises(Stalled, match="is live"):
        await planner.apply("e" * 40, "f" * 40, live)
    await planner.apply(base, "f" * 40, live)
    assert await planner.commits.release() == "f" * 40
    assert planner.world is not None
    memory = planner.world.memory
    paused = replace(memory.services["chat"], pause=OperatorPause(by="ada", why="", at=NOW))
    planner.world = replace(planner.world, memory=replace(memory, services={"chat": paused}))
    with pytest.raises(Stalled, match="have moved on"):
        await planner.apply(base, "f" * 40, live)
