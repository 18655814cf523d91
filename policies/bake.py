"""The watch after 100%, as far as requests tell: what the new revision answers, beside what the one before did."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from policies.analysis.bake import judge_bake
from policies.view import ServiceView
from policies.window import counters_of, unit_of
from specs.analysis import AnalysisSettings, Judgement
from specs.evidence import Evidence
from specs.memory import Baking


def next_baking(view: ServiceView) -> Baking | None:
    """Return the watch after this look. It begins anew where counters fell: they were lost with the gateway's state."""
    baking = view.memory.baking
    if baking is None or view.memory.candidate is not None or view.spec.analysis is None:
        return baking
    counters = counters_of(view, view.cells_of(baking.revision))
    if not baking.start:
        return replace(baking, start=counters)
    if counters.keys() == baking.start.keys() and all(counters[cell].covers(baking.start[cell]) for cell in counters):
        return baking
    return replace(baking, start=counters)


def judgement(view: ServiceView) -> Judgement | None:
    """Return what the requests since 100% say; None when nobody asks, or there is nothing to compare with."""
    baking, settings = view.memory.baking, view.spec.analysis
    if baking is None or settings is None or view.memory.candidate is not None or not baking.before.requests:
        return None
    return _judged(baking.before, _seen(view, baking), replace(settings, unit=unit_of(view)))


@lru_cache(maxsize=256)
def _judged(before: Evidence, now: Evidence, settings: AnalysisSettings) -> Judgement:
    """A look asks several times: to decide, to explain and to report."""
    return judge_bake(before, now, settings)


def _seen(view: ServiceView, baking: Baking) -> Evidence:
    counters = counters_of(view, view.cells_of(baking.revision))
    seen = Evidence()
    for cell, start in baking.start.items():
        if cell in counters and counters[cell].covers(start):
            seen = seen + (counters[cell] - start)
    return seen
