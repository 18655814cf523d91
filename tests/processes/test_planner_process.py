"""Plans come from a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from policies.compaction.planner import plan
from policies.compaction.problem import Problem
from reconciler.adapters import planner_process
from reconciler.adapters.planner_process import PlannerProcess
from reconciler.errors import Retry
from tests.compaction.clusters import random_cluster


async def test_the_process_answers_as_the_planner_does_and_is_asked_once() -> None:
    problem = random_cluster(3)
    process = PlannerProcess()
    answer = await process.plan(problem)
    assert (answer.cost, answer.freed, answer.is_best) == (plan(problem).cost, plan(problem).freed, True)
    assert await process.plan(random_cluster(3)) is answer


async def test_a_process_that_fails_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_process, "MODULE", "no.such.module")
    with pytest.raises(Retry, match="No module named"):
        await PlannerProcess().plan(Problem(machines=(), crowds=()))


def test_the_daemon_itself_never_loads_the_solver() -> None:
    check = "import sys, reconciler.daemon; print(sorted({'numpy', 'scipy', 'ray'} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
