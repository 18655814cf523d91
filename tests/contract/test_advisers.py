"""What asking policies of other packages promises: functions in virtual time, and an installed package's processes."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.policies import PluginPolicies
from reconciler.errors import Retry
from reconciler.ports import Advisers
from specs.memory import Memory
from specs.wishes import Aim, PolicyKind, Stand, read_wish
from specs.world import World
from tests.contract.ramp_package import PACKAGE, install, moving
from tests.sim.fake_advisers import FakeAdvisers

NAMES = ("ramp", "raises", "exits")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder, tmp_path_factory.mktemp("source") / "ramp")
    return folder


def played() -> FakeAdvisers:
    """Return the fake with the package's own functions; what would end a process is a process that ended."""
    spec = importlib.util.spec_from_file_location("ramp_policy", PACKAGE / "ramp_policy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def ends(world: World, subject: Any) -> object:
        raise Retry("its process ended (7)")

    fake = FakeAdvisers()
    fake.policies = {f"rollout.{name}": getattr(module, name) for name in NAMES} | {"rollout.exits": ends}
    return fake


@pytest.fixture(params=["played", "installed"])
async def advisers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Advisers]:
    if request.param == "played":
        yield played()
        return
    target = str(request.getfixturevalue("target"))
    monkeypatch.syspath_prepend(target)
    monkeypatch.setenv("PYTHONPATH", target)
    async with PluginPolicies([f"rollout.{name}" for name in NAMES], SystemClock()) as found:
        yield found


def two() -> World:
    """Return a world with two services that are moving."""
    seen = moving()
    chat = seen.memory.services["chat"]
    return replace(seen, memory=Memory(services={"chat": chat, "echo": replace(chat, name="echo")}))


BOTH = {"chat": "chat", "echo": "echo"}


def test_what_is_enabled_is_named_by_kind_and_name(advisers: Advisers) -> None:
    assert advisers.enabled == {"rollout.ramp", "rollout.raises", "rollout.exits"}


async def test_each_subject_has_the_answer_of_the_policy_in_this_world(advisers: Advisers) -> None:
    answers = await advisers.consult("rollout.ramp", BOTH, two())
    wishes = {name: read_wish(PolicyKind.ROLLOUT, document) for name, document in answers.items()}
    assert wishes == dict.fromkeys(BOTH, Aim(weight=3000, message="30% a minute"))


async def test_nobody_is_asked_about_nothing(advisers: Advisers) -> None:
    assert await advisers.consult("rollout.ramp", {}, two()) == {}


async def test_what_it_raises_for_one_subject_is_that_subjects_problem_alone(advisers: Advisers) -> None:
    answers = await advisers.consult("rollout.raises", BOTH, two())
    problem = answers["chat"]
    assert isinstance(problem, dict)
    assert problem.keys() == {"problem"}
    assert "KeyError: 'no such thing" in problem["problem"]
    assert read_wish(PolicyKind.ROLLOUT, answers["echo"]) == Stand(message="fine")


async def test_one_that_ended_has_no_answer_at_all_and_the_others_go_on(advisers: Advisers) -> None:
    with pytest.raises(Retry, match=r"its process ended \(7\)"):
        await advisers.consult("rollout.exits", BOTH, two())
    assert (await advisers.consult("rollout.ramp", BOTH, two())).keys() == BOTH.keys()


async def test_the_world_it_is_shown_is_not_changed(advisers: Advisers) -> None:
    seen = two()
    await advisers.consult("rollout.ramp", BOTH, seen)
    assert seen == two()
