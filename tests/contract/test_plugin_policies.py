"""Policies of another package, built and installed for real, in processes of their own: what no fake can show."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import reconciler.adapters.policies as adapter
from policies.compaction.problem import Machine, Problem
from policies.compaction.situation import Situation
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.policies import PluginPolicies, installed, problem_of
from reconciler.errors import Retry, Stalled
from specs.memory import Memory
from specs.placement import MARKET_LABEL, ZONE_LABEL
from specs.wishes import Aim, Apportion, PolicyKind, Prefer, read_wish
from tests.builders import NOW, cell, node, service, world
from tests.contract.ramp_package import PACKAGE, install, moving

CHAT = {"chat": "chat"}
PRICE = "example.com/price-per-hour"
NAMES = ("ramp", "hangs", "raises", "exits", "chatty", "forger", "absent")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the package, as its users would, into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, tmp_path_factory.mktemp("source") / "ramp")
    return folder


@pytest.fixture
def there(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", str(target))
    monkeypatch.setenv("HELIOSTAT_RAY_TOKEN", "secret")


@pytest.fixture
async def policies(there: None) -> AsyncIterator[PluginPolicies]:
    async with PluginPolicies([f"rollout.{name}" for name in NAMES], SystemClock()) as found:
        yield found


async def test_a_policy_of_another_package_sees_the_world_and_says_what_it_wants(policies: PluginPolicies) -> None:
    answers = await policies.consult("rollout.ramp", CHAT, moving())
    wish = read_wish(PolicyKind.ROLLOUT, answers["chat"])
    assert wish == Aim(weight=3000, message="30% a minute")


async def test_a_placement_policy_of_another_package_is_asked_about_a_service_at_rest(there: None) -> None:
    nodes = [node(f"n{zone}", labels={ZONE_LABEL: zone, PRICE: price}) for zone, price in (("a", "1"), ("b", "20"))]
    seen = world(service(), cell("v1", ready=3, weight=10_000), stable="v1")
    seen = replace(seen, observed=replace(seen.observed, nodes=tuple(nodes)))
    async with PluginPolicies(["placement.thrifty"], SystemClock()) as found:
        answers = await found.consult("placement.thrifty", CHAT, seen)
    wish = read_wish(PolicyKind.PLACEMENT, answers["chat"])
    assert wish == Apportion(zones={"a": 100, "b": 0}, message="a costs 1, b costs 20")


async def test_a_compaction_policy_of_another_package_is_asked_about_the_nodes(there: None) -> None:
    machines = tuple(
        Machine(id=name, room={}, labels={MARKET_LABEL: kind}) for name, kind in (("s", "spot"), ("d", ""))
    )
    seen = Situation(problem=Problem(machines=machines, crowds=()), replicas={"s": 1, "d": 9})
    night = replace(moving(), now=NOW.replace(hour=22))
    async with PluginPolicies(["compaction.quiet"], SystemClock()) as found:
        answers = await found.consult("compaction.quiet", {"": seen}, night)
        by_day = await found.consult("compaction.quiet", {"": seen}, replace(night, now=NOW.replace(hour=12)))
    wish = read_wish(PolicyKind.COMPACTION, answers[""])
    assert wish == Prefer(keep=("d",), first=("d",), message="spot nodes last")
    assert by_day[""] == {"stand": {"message": "nothing is emptied from 08:00 to 20:00"}}


def test_the_example_of_the_docs_is_this_package() -> None:
    page = (PACKAGE.parents[2] / "docs" / "policies.md").read_text()
    [project] = [found for found in blocks(page, "toml") if "[build-system]" in found]
    written = (PACKAGE / "pyproject.toml").read_text().splitlines()
    assert [line for line in project.splitlines() if line not in written] == []
    [example] = [found for found in blocks(page, "python") if "def ramp" in found]
    module = (PACKAGE / "ramp_policy.py").read_text()
    parts = [part.strip() for part in example.split("\n\n\n")]
    assert len(parts) >= 3
    assert [part for part in parts[1:] if part not in module] == []
    assert set(imported(parts[0])) <= set(imported(module))
    assert [line for line in parts[0].splitlines() if " = " in line and line not in module] == []


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def imported(code: str) -> list[str]:
    return [
        name.strip() for line in re.findall(r"^from .* import (.*)$", code, re.MULTILINE) for name in line.split(",")
    ]


async def test_what_one_service_makes_it_raise_is_that_services_alone(policies: PluginPolicies) -> None:
    seen = moving()
    both = replace(seen, memory=Memory(services={**seen.memory.services, "b": seen.memory.services["chat"]}))
    answers = await policies.consult("rollout.raises", {"chat": "chat", "b": "b"}, both)
    assert answers["b"] == {"stand": {"message": "fine"}}
    assert "it raised KeyError: 'no such thing" in str(answers["chat"])
    assert "ramp_policy.py:" in str(answers["chat"])


async def test_one_that_hangs_is_ended_and_left_alone_for_a_while(
    policies: PluginPolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "FIRST_ANSWER", timedelta(seconds=2))
    with pytest.raises(Retry, match="no answer within 2 s"):
        await policies.consult("rollout.hangs", CHAT, moving())
    with pytest.raises(Retry, match="it is started again 2 s after that"):
        await policies.consult("rollout.hangs", CHAT, moving())
    assert not _workers("rollout.hangs")


async def test_one_that_ends_its_process_ends_nothing_else(policies: PluginPolicies) -> None:
    with pytest.raises(Retry, match=r"its process ended \(7\)"):
        await policies.consult("rollout.exits", CHAT, moving())
    assert await policies.consult("rollout.ramp", CHAT, moving())


async def test_what_it_prints_or_spoils_reaches_nobody(policies: PluginPolicies) -> None:
    seen = moving()
    answers = await policies.consult("rollout.chatty", CHAT, seen)
    assert answers["chat"] == {"aim": {"weight": 100, "replicas": {}, "message": "[]"}}, "it sees the daemon's secrets"
    assert seen.now == NOW
    assert "chat" in seen.memory.services


async def test_what_it_forges_is_no_answer(policies: PluginPolicies) -> None:
    with pytest.raises(Retry):
        await policies.consult("rollout.forger", CHAT, moving())


async def test_what_cannot_be_imported_says_so(policies: PluginPolicies) -> None:
    answers = await policies.consult("rollout.absent", CHAT, moving())
    assert "it cannot be loaded: AttributeError: module 'ramp_policy' has no attribute 'absent'" in str(answers["chat"])


async def test_no_process_outlives_its_daemon(there: None) -> None:
    async with PluginPolicies(["rollout.ramp"], SystemClock()) as found:
        await found.consult("rollout.ramp", CHAT, moving())
        assert _workers("rollout.ramp")
    assert not _workers("rollout.ramp")


def _workers(policy: str) -> list[int]:
    mine = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_text().split("\0")
            parent = int(status.with_name("stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if policy in words and "reconciler.adapters.policy_worker" in words and parent == os.getpid():
            mine.append(int(status.parent.name))
    return mine


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("rollout.rmap", "no installed package has the policy rollout.rmap"),
        ("ramp", "the policy 'ramp' has no kind: write one of rollout.NAME"),
        ("weather.ramp", "has no kind"),
        ("rollout.steps", "is Heliostat's own and always there"),
    ],
)
def test_what_cannot_be_enabled_is_told_at_the_start(there: None, policy: str, says: str) -> None:
    assert says in (problem_of(policy) or "")
    with pytest.raises(Stalled, match=r".*"):
        PluginPolicies([policy], SystemClock())


def test_what_is_installed_is_named_beside_a_name_that_is_not(there: None) -> None:
    assert "rollout.ramp" in installed()
    assert "rollout.ramp" in (problem_of("rollout.rmap") or "")
    assert problem_of("rollout.ramp") is None
