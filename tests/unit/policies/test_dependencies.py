"""Who waits for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.dependencies import await_dependencies
from specs.decisions import StartRollout
from specs.memory import Memory, Quarantined
from specs.reasons import Reason
from specs.routes import FULL
from specs.world import World
from tests.builders import NOW, cell, revision, service, world

START = StartRollout(service="chat", revision=revision("v2"))


def beside(*cells: Any, version: str = "v1", needs: str = "base", **memory: Any) -> World:
    base = world(service("base", version), *cells, **memory)
    chat = world(service("chat", "v2", depends_on=(needs,)))
    return replace(base, memory=Memory(services={**base.memory.services, **chat.memory.services}))


def up(ready: int = 3, version: str = "v1") -> Any:
    return cell(version, ready=ready, weight=FULL, name="base")


BAD = Quarantined(revision="v2", reason=Reason.BUILD_FAILED, message="no", at=NOW)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (beside(up(), stable="v1"), None),
        (beside(up(), stable="v1", version="v2"), "base, which does not run v2 yet"),
        (beside(up(), cell("v2", name="base"), stable="v1", candidate="v2", version="v2"), "on its way to v2"),
        (beside(up(ready=2), stable="v1"), "not healthy (Echo 2 of 3)"),
        (beside(stable=None), "does not run v1 yet"),
        (beside(up(), stable="v1", version="v2", quarantine=(BAD,)), "whose v2 was taken back (BuildFailed)"),
        (beside(up(), stable="v1", is_removed=True), "being removed"),
        (beside(up(), stable="v1", needs="bass"), "bass, which no spec describes (did you mean base?)"),
    ],
)
def test_a_rollout_waits_until_what_it_needs_is_healthy_at_its_wanted_revision(made: World, text: str | None) -> None:
    held = await_dependencies(made, START)
    if text is None:
        assert held is None
    else:
        assert held is not None
        assert held.reason is Reason.DEPENDENCY_NOT_READY
        assert text in held.message
