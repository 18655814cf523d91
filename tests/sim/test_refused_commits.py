"""A commit that is refused is told once, shows in status and conditions, and stops nothing that is under way."""

from __future__ import annotations

from specs.commit_notes import CommitNote
from specs.reasons import Reason
from tests.builders import service
from tests.sim.world import Simulation

UNSIGNED = CommitNote(
    commit="bad0bad0", reason=Reason.SIGNATURE_INVALID, message="commit bad0bad0 is signed by key K", is_refused=True
)
REWRITTEN = CommitNote(
    commit="bad1bad1", reason=Reason.NON_FAST_FORWARD, message="bad1bad1 does not go on from good", is_refused=False
)


async def test_a_refused_commit_is_told_once_and_the_rollout_under_way_goes_on() -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push(service(sizes=2))
    await sim.settle()
    sim.source.push(service(version="v2", sizes=2))
    await sim.run(2)
    sim.source.notes = (UNSIGNED,)
    await sim.settle()
    (event,) = sim.events("")
    assert (event.kind, event.is_warning) == ("CommitRefused", True)
    assert event.message == "SignatureInvalid: commit bad0bad0 is signed by key K"
    status = sim.status()
    assert status.stable == "v2"
    condition = next(found for found in status.conditions if found.type == "CommitTrusted")
    assert (condition.status, condition.reason) == ("False", "SignatureInvalid")
    assert "bad0bad0" in condition.message
    assert sim.daemon.status is not None
    assert "key K" in sim.daemon.status.problem
    sim.source.notes = ()
    await sim.run(5)
    condition = next(found for found in sim.status().conditions if found.type == "CommitTrusted")
    assert condition.status == "True"
    assert sim.daemon.status.problem == ""
    assert len(sim.events("")) == 1


async def test_a_rewritten_branch_that_is_followed_is_told_and_no_problem() -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push(service(sizes=2))
    await sim.settle()
    sim.source.notes = (REWRITTEN,)
    await sim.run(5)
    assert [event.kind for event in sim.events("")] == ["HistoryRewritten"]
    assert sim.daemon.status is not None
    assert sim.daemon.status.problem == ""
