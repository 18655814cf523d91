"""A plan as the comment of a pull request: what matters first, the rest folded, never too long to be taken.

What a change says (names of files, values, subjects) comes from people whom nobody checked: it stands in code
blocks and spans that it cannot leave, so that it mentions nobody and draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from reconciler.cli.plan_forecast import outline, steps, summary
from reconciler.cli.plan_text import SIGNS, files, headline, line
from reconciler.cli.terminal import clean, one_line
from specs.planned import PlannedChange, PlannedService

MARKER = "<!-- heliostat-plan{title} -->"
"""The comment's first line: the next push finds and updates the same comment by it."""

MAX_LENGTH = 65_000
"""Bytes. GitHub takes 65,536 characters; others count bytes."""

MAX_PROBLEMS = 50
MAX_FILES = 20
_TITLE_FORBIDDEN = re.compile(r"[^A-Za-z0-9 ._/]+")
_RESERVE = 400
"""Room for what is said about the parts left out."""


def marker(title: str) -> str:
    """Return the line that tells this plan's comment from all others."""
    text = _TITLE_FORBIDDEN.sub("-", title).strip()
    return MARKER.format(title=f": {text}" if text else "")


def markdown(change: PlannedChange, title: str = "") -> str:
    """Return the comment: at most `MAX_LENGTH` bytes, the least important parts left out first."""
    blocks = [
        _head(change, title),
        _problems(change),
        _held(change),
        _warnings(change),
        _overview(change),
        *_forecast(change),
    ]
    whole = [*blocks, *_details(change, MAX_FILES)]
    if _size(whole) > MAX_LENGTH:
        whole = [*blocks, *_details(change, 0)]
    return "\n\n".join(_within(block for block in whole if block)) + "\n"


def _within(blocks: Iterable[str]) -> list[str]:
    """Keep blocks in their order while there is room; a block that is too long is cut at a line."""
    kept: list[str] = []
    left, dropped = MAX_LENGTH - _RESERVE, 0
    for block in blocks:
        length = len(block.encode()) + 2
        if dropped or length > left:
            dropped += 1
            continue
        kept.append(block)
        left -= length
    if dropped:
        kept.append(f"_{dropped} more parts are left out, for the comment would be too long: run `heliostat plan`._")
    return kept


def _size(blocks: Sequence[str]) -> int:
    return sum(len(block.encode()) + 2 for block in blocks) + _RESERVE


def _head(change: PlannedChange, title: str) -> str:
    named = f" for {_span(title)}" if title else ""
    lines = [
        marker(title),
        f"### Heliostat plan{named}",
        f"**{change.counts}**",
        f"{_span(change.base.sha[:12])} → {_span(change.head.sha[:12])} {_span(change.head.subject)}",
    ]
    return "\n\n".join(line.strip() for line in lines)


def _problems(change: PlannedChange) -> str:
    if not change.errors:
        return ""
    shown = [str(error) for error in change.errors[:MAX_PROBLEMS]]
    more = len(change.errors) - len(shown)
    shown += [f"and {more} more"] if more else []
    return f"#### Wrong in the files ({len(change.errors)})\nTheir services stay as they are.\n\n" + _block(
        shown, "text"
    )


def _held(change: PlannedChange) -> str:
    lines = [
        f"- {_span(service.name)} {_span(hold.reason.value)}: {_span(hold.message)}"
        for service in change.services
        for hold in service.holds
    ]
    return _listed("On hold", lines)


def _warnings(change: PlannedChange) -> str:
    lines = [f"- {_span(service.name)}: {_span(text)}" for service in change.services for text in service.warnings]
    return _listed("Warnings", lines)


def _listed(heading: str, lines: list[str]) -> str:
    if not lines:
        return ""
    more = len(lines) - MAX_PROBLEMS
    lines = lines[:MAX_PROBLEMS] + ([f"- and {more} more"] if more > 0 else [])
    return f"#### {heading}\n" + "\n".join(lines)


def _overview(change: PlannedChange) -> str:
    if change.is_empty:
        return "Nothing changes."
    lines = [f"{SIGNS[service.action]:>3} {service.name}  {headline(service)}" for service in change.services]
    lines += ["  ~ ClusterPolicy"] if change.policy else []
    more = len(lines) - 300
    return _block(lines[:300] + ([f"and {more} more"] if more > 0 else []), "text")


def _forecast(change: PlannedChange) -> list[str]:
    """Return how it would go: the whole in sight, each service's steps folded."""
    prediction = change.prediction
    if prediction is None:
        return []
    lines = summary(prediction)
    for service in prediction.services:
        lines += [f"{service.name}: {text}" for text in outline(service)]
    blocks = [_block(lines[:200], "text")]
    blocks += [_folded(f"{service.name}, step by step", steps(service)) for service in prediction.services]
    if prediction.assumptions:
        blocks.append(_folded("What this assumes", list(prediction.assumptions)))
    return blocks


def _details(change: PlannedChange, most_files: int) -> list[str]:
    found = [_fold(service, most_files) for service in change.services]
    if change.policy:
        found.append(_folded("ClusterPolicy", [line(field) for field in change.policy]))
    return [part for part in found if part]


def _fold(service: PlannedService, most_files: int) -> str:
    lines = [line(field) for field in service.fields]
    lines += files(service.files, most_files) if service.files else []
    return _folded(f"{service.name} ({service.path}:{service.line})", lines) if lines else ""


def _folded(summary: str, lines: list[str]) -> str:
    # As code, for an "@" mentions people however it is written, and on one line, for an empty one would end the HTML.
    safe = one_line(summary).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<details><summary><code>{safe}</code></summary>\n\n{_block(lines, 'text')}\n\n</details>"


def _block(lines: Sequence[str], language: str) -> str:
    """Return a code block that its text cannot end."""
    text = "\n".join(clean(line).replace("\n", " ") for line in lines)  # Not `one_line`: columns are aligned.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _span(text: str) -> str:
    """Return a code span that its text cannot end."""
    flat = one_line(text)
    if not flat:
        return ""
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    tick = "`" * (longest + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{tick}{pad}{flat}{pad}{tick}"
