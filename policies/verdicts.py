"""What the requests say about a candidate, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache

from policies.analysis import with_bounds
from policies.counsel import advised
from policies.metrics import unmeasured
from policies.recall import recalled
from policies.registry import ANALYSIS
from policies.revisions import rolled_back
from policies.view import ServiceView
from policies.window import unit_of, windows
from specs.analysis import AnalysisSettings, Judgement, Outcome
from specs.decisions import Decision, LatchFailure
from specs.desired import Analysis, OnInconclusive, Step
from specs.evidence import Window
from specs.memory import Failure
from specs.reasons import Reason
from specs.wishes import PolicyKind

NOTHING_COMPARED = "the gateway has no requests of both revisions to compare yet"


@recalled
def judgement(view: ServiceView) -> Judgement | None:
    """Return what is to be said of the candidate now; None when nobody asks, or nothing is compared yet."""
    settings, seen = settings_now(view), windows(view)
    if settings is None or not seen:
        return None
    return _judged(seen, settings) if view.spec.analysis_policy in ANALYSIS else _advised(view, settings)


def judgement_in_full(view: ServiceView) -> Judgement | None:
    """Return `judgement` with the bounds of each effect: costly, and for those who read it only."""
    found, settings = judgement(view), settings_now(view)
    if found is None or settings is None or not found.verdicts:
        return found
    return _bounded(found, windows(view), settings)


def _advised(view: ServiceView, settings: AnalysisSettings) -> Judgement:
    """Return what another package's policy says. Nothing is concluded from too few requests, whoever says it."""
    wish = advised(view, PolicyKind.ANALYSIS)
    if not isinstance(wish, Judgement):
        return Judgement(outcome=Outcome.INCONCLUSIVE, message=getattr(wish, "message", "") or "it says nothing")
    requests = sum(window.candidate.requests for window in windows(view))
    missing = settings.min_requests - requests
    if missing <= 0 or wish.outcome is Outcome.INCONCLUSIVE:
        return wish
    text = f"{requests} of {settings.min_requests} requests that it takes (the policy says {wish.outcome})"
    return Judgement(outcome=Outcome.INCONCLUSIVE, message=text, needed=missing)


@lru_cache(maxsize=256)
def _judged(seen: tuple[Window, ...], settings: AnalysisSettings) -> Judgement:
    """A look asks up to four times: to decide, to go on, to explain and to report. Once is what a look can afford."""
    return ANALYSIS["sequential"](seen, settings)


@lru_cache(maxsize=256)
def _bounded(found: Judgement, seen: tuple[Window, ...], settings: AnalysisSettings) -> Judgement:
    """Several may read one report."""
    return with_bounds(found, seen, settings)


@recalled
def settings_now(view: ServiceView) -> AnalysisSettings | None:
    """Return what is asked of the candidate: the service's own settings; at an analysis step at least the defaults."""
    step, settings = _present_step(view), view.spec.analysis
    if isinstance(step, Analysis):
        settings = settings or AnalysisSettings()
        settings = settings if step.min_requests is None else replace(settings, min_requests=step.min_requests)
    return settings and replace(settings, unit=unit_of(view))


def _present_step(view: ServiceView) -> Step | None:
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    return steps[rollout.step] if rollout is not None and rollout.step < len(steps) else None


def failed_analysis(view: ServiceView) -> tuple[Decision, ...]:
    """Return what a candidate that is surely worse calls for: as for a broken one, or to stand still."""
    cells = view.cells_of(view.memory.candidate)
    if any(cell.memory.failure is not None for cell in cells):
        return ()  # It is known, and looked at by a person.
    found = judgement(view)
    if found is None or found.outcome is not Outcome.FAILING:
        return ()
    failure = Failure(reason=Reason.ANALYSIS_FAILED, message=found.message, at=view.now)
    latched = tuple(LatchFailure(service=view.name, cell=cell.memory.key, failure=failure) for cell in cells)
    return (*latched, *rolled_back(view, failure))


def analysis_until(view: ServiceView) -> datetime | None:
    """Return when the time of the present analysis step is over; None at other steps, or before it counts."""
    step, rollout = _present_step(view), view.memory.rollout
    if not isinstance(step, Analysis) or rollout is None or rollout.reached_at is None:
        return None
    return rollout.reached_at + step.at_least


def end_of_analysis(view: ServiceView) -> str:
    """Return why the present analysis step is over; "" while it is not.

    Its time must be over, and the candidate pass. Without enough requests it ends only where the spec says so.
    """
    until = analysis_until(view)
    if until is None or view.now < until:
        return ""
    found, missing = judgement(view), unmeasured(view)
    if found is not None and found.outcome is Outcome.PASSING and not missing:
        return found.message
    goes_on = view.spec.rollout.on_inconclusive is OnInconclusive.PROMOTE
    why = missing or (found.message if found else NOTHING_COMPARED)
    return f"onInconclusive: promote, {why}" if goes_on else ""


def lacks_requests(view: ServiceView) -> bool:
    """Return whether the present analysis step's time is over, and nothing but more requests can end it."""
    until = analysis_until(view)
    return until is not None and view.now >= until and not end_of_analysis(view)


def waiting_time(view: ServiceView, requests: int) -> timedelta | None:
    """Return how long `requests` to the candidate take at the present window's rate; None when that is not known."""
    comparison, seen = view.memory.comparison, windows(view)
    if comparison is None or not comparison.start or not seen or requests <= 0:
        return None
    served, took = seen[-1].candidate.requests, view.now - comparison.since
    return took * (requests / served) if served else None
