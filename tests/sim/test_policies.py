"""Policies of other packages: an honest one steers a rollout, a hostile one can do no more than stand in its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.capacity
from policies.view import ServiceView
from reconciler.errors import Retry
from specs.analysis import Judgement, Outcome
from specs.desired import Delegated, DesiredService
from specs.reasons import Reason
from specs.wishes import Aim, GoBack, Stand
from specs.world import World
from tests.builders import service
from tests.sim.fake_advisers import Policy, hostile
from tests.sim.invariants import InvariantBroken
from tests.sim.scenarios import LOSSES, OUTAGES, PEOPLE, Story, Teller, stories
from tests.sim.test_properties import lives
from tests.sim.world import Simulation


def spec(version: str, **options: Any) -> DesiredService:
    ways: dict[str, Any] = {"policy": "ramp", "scale_down": 0, "max_request": 20, "deadline": 60, **options}
    return service("chat", version, 4, **ways)


def ramp(per_second: int = 200) -> Policy:
    """Return a policy that gives the candidate more with each second of its rollout."""

    def ask(world: World, name: str) -> Aim:
        rollout = world.memory.services[name].rollout
        assert rollout is not None
        passed = int((world.now - rollout.started_at).total_seconds())
        return Aim(weight=min(10_000, passed * per_second), message=f"{passed} s")

    return ask


def always(answer: object) -> Policy:
    def ask(world: World, name: str) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


async def steered(**policies: Policy) -> Simulation:
    """Return a simulation with these policies, by kind, in which v2 has begun to replace v1."""
    sim = Simulation()
    sim.advisers.policies = {f"{kind}.ramp": policy for kind, policy in policies.items()}
    await sim.start()
    sim.push(spec("v1"))
    await sim.settle()
    return sim


async def test_a_policy_steers_a_rollout_to_its_end() -> None:
    sim = await steered(rollout=ramp())
    sim.push(spec("v2"))
    seen: list[float] = []
    for _ in range(400):
        await sim.step()
        seen.append(sim.weights().get("v2", 0.0))
        if sim.memory().stable == "v2":
            break
    assert sim.memory().stable == "v2", sim.describe()
    assert seen == sorted(seen), "it went back"
    assert len(set(seen)) > 8, "it went in few leaps"


async def test_a_policy_may_ask_for_replicas_before_it_asks_for_requests() -> None:
    sim = await steered(rollout=always(Aim(weight=0, replicas={"Echo": 2})))
    sim.push(spec("v2", surge=2))
    await sim.until(lambda: sim.counts().get("v2") == 2, within=60, what="two replicas without a request")
    assert sim.weights() == {"v1": 100.0}
    await sim.until(lambda: "says policy ramp" in sim.status().message, within=60, what="it says who wants that")


async def test_status_says_why_a_policy_stands() -> None:
    sim = await steered(rollout=always(Stand(message="the moon is full")))
    sim.push(spec("v2"))
    await sim.until(lambda: sim.status().reason is Reason.POLICY_HOLDS, within=60, what="it stands")
    assert sim.status().message == "policy ramp: the moon is full"
    assert sim.status().step.text == "policy ramp"  # type: ignore[union-attr]
    assert await sim.order("promote") == ""
    await sim.until(lambda: sim.memory().stable == "v2", what="a person goes past it")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "its answer is no wish"),
        ({"aim": {"weight": 20_000}}, "its weight is 20000, not a whole number from 0 to 10000"),
        ({"goBack": {}}, "a rollout policy may answer with aim or stand, not with 'goBack'"),
        ({"problem": "it raised KeyError: 'x' at ramp.py:3"}, "it raised KeyError: 'x' at ramp.py:3"),
        (Retry("no answer within 5 s"), "no answer within 5 s"),
    ],
)
async def test_a_policy_that_fails_holds_and_is_told_of_once(answer: object, says: str) -> None:
    sim = await steered(rollout=always(answer))
    sim.push(spec("v2"))
    await sim.until(lambda: sim.status().reason is Reason.POLICY_FAILED, within=60, what="it fails")
    assert says in sim.status().message
    await sim.run(200)
    assert sim.weights() == {"v1": 100.0}
    told = [event for event in sim.events() if event.kind == "PolicyFailed"]
    assert len(told) == 1
    assert told[0].is_warning
    assert says in told[0].message
    sim.advisers.policies["rollout.ramp"] = ramp()
    await sim.until(lambda: sim.memory().stable == "v2", what="it goes on as soon as the policy does")


async def test_one_that_says_nothing_any_more_is_not_gone_by() -> None:
    sim = await steered(rollout=always(Aim(weight=2500)))
    sim.push(spec("v2"))
    await sim.until(lambda: sim.weights().get("v2") == 25.0, within=90, what="a quarter")

    async def never(_: object) -> None:
        """Ask nobody."""

    assert sim.daemon is not None
    sim.daemon.errands._consulted = never  # type: ignore[method-assign]
    await sim.until(lambda: sim.status().reason is Reason.POLICY_FAILED, within=60, what="it is missed")
    assert "has said nothing new for" in sim.status().message
    assert sim.weights()["v2"] == 25.0


async def test_a_policy_that_nobody_enabled_is_an_error_that_says_what_is() -> None:
    sim = await steered(rollout=ramp(), analysis=always(Stand()))
    sim.push(spec("v2", policy="rmap"))
    await sim.run(5)
    status = sim.status()
    assert status.reason is Reason.POLICY_UNKNOWN
    assert 'rollout.policy is "rmap", which is not enabled: there are steps, ramp.' in status.message
    assert "--policy rollout.rmap" in status.message
    valid = next(condition for condition in status.conditions if condition.type == "SpecValid")
    assert (valid.status, valid.reason) == ("False", "PolicyUnknown")
    assert sim.memory().candidate is None
    assert sim.weights() == {"v1": 100.0}
    sim.push(spec("v1", policy="rmap"))
    await sim.run(5)
    assert any(condition.reason == "PolicyUnknown" for condition in sim.status().conditions)


async def test_a_daemon_without_the_policy_keeps_a_rollout_where_it_is() -> None:
    sim = await steered(rollout=always(Aim(weight=2500)))
    sim.push(spec("v2"))
    await sim.until(lambda: sim.weights().get("v2") == 25.0, within=90, what="a quarter")
    sim.kill()
    sim.advisers.policies = {}
    await sim.run(60)
    assert sim.status().reason is Reason.POLICY_UNKNOWN
    assert sim.weights()["v2"] == 25.0


async def test_a_rollback_policy_takes_a_candidate_back() -> None:
    sim = await steered(rollout=always(Aim(weight=2500)), rollback=always(GoBack(message="too warm")))
    sim.push(spec("v2", rollback_policy="ramp"))
    await sim.until(lambda: bool(sim.memory().quarantine), within=90, what="taken back")
    assert sim.memory().quarantine[0].reason is Reason.POLICY_ROLLBACK
    assert sim.memory().quarantine[0].message == "policy ramp: too warm"


@pytest.mark.parametrize(
    ("policy", "goes"),
    [(always(Stand(message="let me look")), False), (always(None), True), (always(GoBack(message="")), True)],
)
async def test_a_rollback_policy_may_keep_what_failed_and_one_that_fails_may_not(policy: Policy, goes: bool) -> None:
    sim = await steered(rollout=ramp(), rollback=policy)
    args: Mapping[str, Any] = {"fail_start": "RuntimeError: no weights"}
    sim.push(spec("v2", rollback_policy="ramp", args=args))
    await sim.run(90)
    assert bool(sim.memory().quarantine) is goes
    assert sim.weights() == {"v1": 100.0}
    if not goes:
        assert sim.status().reason is Reason.POLICY_HOLDS
        assert "policy ramp keeps it: let me look" in sim.status().message


async def test_an_analysis_policy_judges_but_not_before_there_are_enough_requests() -> None:
    failing = Judgement(outcome=Outcome.FAILING, message="I do not like it")
    sim = await steered(rollout=always(Aim(weight=2500)), analysis=always(failing))
    sim.push(spec("v2", judge="ramp", analysis={"min_requests": 100}))
    early: datetime | None = None
    for _ in range(200):
        await sim.step()
        if sim.memory().quarantine:
            break
        found = sim.status().analysis if sim.status().candidate else None
        if found is not None:
            assert "requests that it takes (the policy says failing)" in found.message
            early = sim.clock.now()
    assert early is not None, "it judged at once"
    assert sim.memory().quarantine[0].reason is Reason.ANALYSIS_FAILED
    assert sim.memory().quarantine[0].message == "I do not like it"


# -- hostile ones ------------------------------------------------------------------------------------------


class Besieged(Teller):
    """A story in which each service's policies are hostile until all trouble ends."""

    def __init__(self, story: Story, seed: int) -> None:
        super().__init__(story)
        foes = {f"{kind}.foe": hostile(seed, kind) for kind in ("rollout", "analysis", "rollback")}
        self.sim.advisers.policies = foes

    def push(self) -> None:
        made = super().push
        was, self.sim.push = self.sim.push, lambda *specs, **more: was(*map(_besieged, specs), **more)  # type: ignore[method-assign]
        made()
        self.sim.push = was  # type: ignore[method-assign]

    async def end(self) -> None:
        passing = Judgement(outcome=Outcome.PASSING, message="fine")
        self.sim.advisers.policies = {
            "rollout.foe": ramp(1000),
            "analysis.foe": always(passing),
            "rollback.foe": always(Stand(message="well")),
        }
        await super().end()


def _besieged(wanted: DesiredService) -> DesiredService:
    settings = replace(wanted.rollout, steps=(Delegated(policy="foe"),), policy="foe", rollback_policy="foe")
    return replace(wanted, rollout=settings, analysis_policy="foe")


async def _besiege(story: Story, seed: int) -> None:
    story = replace(story, shapes=tuple(replace(shape, asks=True) for shape in story.shapes))
    teller = Besieged(story, seed)
    try:
        await teller.tell()
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{story}\n{teller.sim.describe()}") from broken


@lives
@given(
    story=stories("push", "push", "revert", *PEOPLE, "crash", *OUTAGES, *LOSSES, services=2), seed=st.integers(0, 99)
)
async def test_a_hostile_policy_breaks_no_invariant_and_everybody_arrives(story: Story, seed: int) -> None:
    await _besiege(story, seed)


async def _greed() -> None:
    sim = await steered(rollout=always({"aim": {"weight": 5000, "replicas": {"Echo": 99_999}}}))
    sim.push(spec("v2"))
    await sim.run(60)


async def test_letting_a_policy_have_what_it_asks_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    await _greed()

    def goals(view: ServiceView, deployment: str, goal: Mapping[str, int]) -> Mapping[str, int]:
        counts = dict.fromkeys(view.revisions, 0) | {view.memory.stable: view.budget(deployment).target}
        if view.memory.candidate:
            counts[view.memory.candidate] = 9
        return counts  # type: ignore[return-value]

    monkeypatch.setattr(policies.capacity, "goal_counts", goals)
    monkeypatch.setattr(ServiceView, "room", lambda view, deployment: 99)
    with pytest.raises(InvariantBroken, match="I2"):
        await _greed()
