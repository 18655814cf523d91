"""A plan as text, in the signs that Terraform made common."""

from __future__ import annotations

from reconciler.cli.plan_forecast import outline, steps, summary
from reconciler.cli.terminal import clean, indented, one_line, toned
from specs.planned import Action, Consequence, FieldChange, FileChange, FileFate, PlannedChange, PlannedService
from specs.predicted import Prediction

SIGNS = {
    Action.ADD: "+",
    Action.DESTROY: "-",
    Action.ROLL: "-/+",
    Action.SCALE: "~",
    Action.ROUTE: "~",
    Action.CONFIGURE: "~",
    Action.KEEP: "!",
}
TONES = {"+": "good", "-": "bad", "-/+": "warn", "~": "busy", "!": "warn"}
FILE_SIGNS = {FileFate.ADDED: "+", FileFate.CHANGED: "~", FileFate.REMOVED: "-"}
CONSEQUENCES = {
    Consequence.REVISION: "makes a new revision",
    Consequence.IN_PLACE: "applied to running replicas",
    Consequence.SCALE: "replicas come or go",
    Consequence.ROUTE: "moves the public path",
    Consequence.SETTINGS: "",
}
MAX_FILES = 30
"""Of one service; a plan is read by people."""


def text(change: PlannedChange) -> str:
    """Return the whole plan; its last line counts."""
    parts = [f"{_commit(change.base.sha, change.base.subject)} -> {_commit(change.head.sha, change.head.subject)}"]
    parts += [_service(service) for service in change.services]
    if change.policy:
        parts.append(
            "\n".join([toned("~ ClusterPolicy", "busy"), *(indented(line(one), "    ") for one in change.policy)])
        )
    if change.errors:
        lines = [
            toned(f"{len(change.errors)} wrong in the files:", "bad"),
            *(f"    {one_line(str(error))}" for error in change.errors),
        ]
        parts.append("\n".join(lines))
    if change.is_empty and not change.errors:
        parts.append("Nothing changes.")
    if change.prediction is not None:
        parts.append("\n".join(_forecast(change.prediction)))
    return "\n\n".join([*parts, str(change.counts)])


def _forecast(prediction: Prediction) -> list[str]:
    lines = summary(prediction)
    for service in prediction.services:
        lines += ["", f"  {toned(service.name, '', bold=True)}"]
        lines += [f"      {text}" for text in (*outline(service), *steps(service))]
    if prediction.assumptions:
        lines += ["", "  assumed:", *(f"      {one_line(text)}" for text in prediction.assumptions)]
    return lines


def _commit(sha: str, subject: str) -> str:
    return one_line(f"{sha[:12]} {subject}")


def _service(service: PlannedService) -> str:
    sign = SIGNS[service.action]
    head = f"{toned(f'{sign:>3}', TONES[sign])} {toned(service.name, '', bold=True)}  {headline(service)}"
    place = toned(f"  {one_line(service.path)}:{service.line}", "quiet")
    lines = [head + place]
    lines += [f"      on hold, {hold.reason.value}: {one_line(hold.message)}" for hold in service.holds]
    lines += [f"      {line(field)}" for field in service.fields]
    lines += [f"      {file}" for file in files(service.files, MAX_FILES)]
    lines += [toned(f"      warning: {one_line(warning)}", "warn") for warning in service.warnings]
    return "\n".join(lines)


def headline(service: PlannedService) -> str:
    """Return what happens to a service, in a few words."""
    match service.action:
        case Action.ADD:
            return f"is created at {service.route} with revision {service.revision_after}"
        case Action.DESTROY:
            return f"is removed with its route {service.route}"
        case Action.ROLL:
            return f"is replaced by a new revision: {service.revision_before} -> {service.revision_after}"
        case Action.SCALE:
            return "is scaled, in place"
        case Action.ROUTE:
            return f"moves to {service.route}; no replica restarts"
        case Action.CONFIGURE:
            return "is changed in place; no replica restarts"
        case Action.KEEP:
            return "stays as it is: its file is wrong"


def line(field: FieldChange) -> str:
    """Return one field's line."""
    before, after = (("(none)" if value is None else clean(value)) for value in (field.before, field.after))
    said = f"{before} -> {after}" if before != after else f"{after} (changed; not shown)"
    why = CONSEQUENCES[field.consequence]
    return f"{one_line(field.path)}: {said}" + (f"  # {why}" if why else "")


def files(changed: tuple[FileChange, ...], most: int) -> list[str]:
    """Return the lines of a package's files."""
    lines = [f"{FILE_SIGNS[file.fate]} {one_line(file.path)}  # makes a new revision" for file in changed[:most]]
    return lines + ([f"and {len(changed) - most} more files"] if len(changed) > most else [])
