"""Each turn of a simulated daemon taken twice: with what it recalls of earlier looks, and without any of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest

import reconciler.loop
from reconciler.planning.compile import Compiled, compile_effects
from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import Plan, make_plan
from reconciler.planning.report import Circumstances, report
from specs.decisions import Decision
from specs.memory import Memory
from specs.routes import RouteTable
from specs.status import ClusterStatus
from specs.world import World


class Differs(Exception):
    """A turn says otherwise with what is recalled than without."""


@contextmanager
def taken_twice() -> Iterator[None]:
    """While this is open, daemons must decide, do and report at each turn what they would without recalling anything.

    Differs names the field and both values.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconciler.loop, "make_plan", _plan)
        patch.setattr(reconciler.loop, "compile_effects", _compiled)
        patch.setattr(reconciler.loop, "report", _reported)
        yield


def _plan(world: World, about: Surroundings, orders: Mapping[str, tuple[Decision, ...]] | None = None) -> Plan:
    found, anew = make_plan(world, about, orders), make_plan(replace(world, recall=None), about, orders)
    _compare(found, anew)
    return found


def _compiled(plan: Plan, before: Memory, routed: RouteTable | None) -> Compiled:
    found, anew = compile_effects(plan, before, routed), compile_effects(_bare(plan), before, routed)
    _compare(found, anew)
    return found


def _reported(plan: Plan, memory: Memory, about: Circumstances, last: ClusterStatus | None) -> ClusterStatus:
    found, anew = report(plan, memory, about, last), report(_bare(plan), memory, about, last)
    _compare(found, anew)
    return found


def _bare(plan: Plan) -> Plan:
    return replace(plan, world=replace(plan.world, recall=None))


def _compare(found: Any, anew: Any) -> None:
    """Compare field by field, and to the letter: 1 is not True, and the order of what is told counts."""
    for field in fields(found):
        recalled, worked_out = getattr(found, field.name), getattr(anew, field.name)
        if recalled != worked_out or repr(recalled) != repr(worked_out):
            raise Differs(f"recalled {field.name}:\n{recalled}\nworked out anew:\n{worked_out}")
