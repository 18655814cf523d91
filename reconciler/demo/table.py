"""What the demo prints at its end: figures first, then whether the story went as told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from reconciler.demo.guest_book import Executions
from reconciler.demo.repository import BUDGET, SURGE, TARGET
from reconciler.demo.teller import Stage
from reconciler.demo.traffic import Tally
from reconciler.demo.witness import Witness

COLUMNS = ("stage", "seconds", "requests", "failed", "answered by", "first action")


def render(stages: Sequence[Stage], sums: Sequence[tuple[str, str]]) -> str:
    """Return the table and the sums below it."""
    rows = [COLUMNS, *(_row(stage) for stage in stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    wide = max(len(name) for name, _ in sums)
    return "\n".join([*lines, "", *(f"{name:{wide}}  {value}" for name, value in sums)])


def request_sums(tally: Tally, executions: Executions) -> tuple[tuple[str, str], ...]:
    """Return what became of all requests."""
    return (
        ("requests sent", str(tally.sent)),
        ("requests failed", str(tally.failed)),
        ("executed twice", f"{len(executions.twice)} of {executions.answered} POSTs, counted by the service itself"),
        ("answers per version", _answers(tally) or "none"),
        ("slowest answer", f"{tally.slowest * 1000:.0f} ms"),
    )


def sums(
    stages: Sequence[Stage], tally: Tally, executions: Executions, witness: Witness, total: timedelta
) -> tuple[tuple[str, str], ...]:
    """Return the sums of the story of a rollout."""
    reactions = [stage.reaction for stage in stages if stage.reaction is not None]
    slowest = f"{max(reactions).total_seconds():.2f} s" if reactions else "unknown"
    return (
        *request_sums(tally, executions),
        (
            "peak replicas",
            f"{witness.peak} of at most {BUDGET} ({TARGET} + surge {SURGE}), counted at Ray{_retried(witness)}",
        ),
        ("commit to first action", f"{slowest} at most, until Ray had the new application"),
        ("whole story", f"{total.total_seconds():.0f} s"),
    )


def _retried(witness: Witness) -> str:
    if not witness.retried:
        return ""
    return f"; besides {witness.retried} that failed to start, while Serve replaced it"


def _row(stage: Stage) -> tuple[str, ...]:
    return (
        stage.text,
        f"{stage.seconds:.1f}",
        str(stage.tally.sent) if stage.tally.sent else "-",
        str(stage.tally.failed) if stage.tally.sent else "-",
        _answers(stage.tally) or "-",
        f"after {stage.reaction.total_seconds():.2f} s" if stage.reaction is not None else "-",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = range(1, 4)
    cells = (
        f"{cell:>{width}}" if column in numbers else f"{cell:{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _answers(tally: Tally) -> str:
    return ", ".join(f"{text.removeprefix('Hello from ')} {count}" for text, count in sorted(tally.answers.items()))
