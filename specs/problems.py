"""What is wrong with a value of a spec, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from specs.masking import masked_text
from specs.yaml_marks import Path

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_SHOWN = 60
"""Longer values are cut: an error is one line."""

NEAR = 0.7
"""Similarity from which a known name is offered for an unknown one."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem at `path` in a document; `at_key` when the key itself is wrong, not its value."""

    path: Path
    message: str
    at_key: bool = False


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` most likely stands for, or None."""
    by_form = {_form(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_form(name), list(by_form), n=1, cutoff=NEAR)
    return by_form[matches[0]] if matches else None


def _form(name: str) -> str:
    """`max_surge`, `MaxSurge` and `maxSurge` are the same to people."""
    return name.replace("_", "").replace("-", "").casefold()


def validate(model: type[ModelT], value: Any) -> tuple[ModelT | None, list[Problem]]:
    """Check `value` against `model`: the parsed model when it fits, and all problems otherwise."""
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        return None, list(_unique(_explain(model, details) for details in error.errors(include_url=False)))


def _unique(problems: Iterator[Problem]) -> Iterator[Problem]:
    yield from {(problem.path, problem.message): problem for problem in problems}.values()


def _explain(root: type[BaseModel], error: ErrorDetails) -> Problem:
    path: Path = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        return Problem(path=path, message=_unknown_field(_model_at(root, path[:-1]), str(path[-1])), at_key=True)
    if error["type"] == "missing":
        return Problem(path=path, message=f'"{path[-1]}" is missing: add {_example(path[-1])}', at_key=True)
    return Problem(path=path, message=_wrong_value(error))


def _example(field: str | int) -> str:
    examples = {
        "metadata": "metadata: {name: ...}",
        "name": "name: ...",
        "import_path": "import_path: module:attribute",
        "application": "application: {import_path: module:attribute}",
        "spec": "spec: {application: {import_path: module:attribute}}",
    }
    return examples.get(str(field), f"{field}: ...")


def _unknown_field(model: type[BaseModel] | None, name: str) -> str:
    if model is None:
        return f'unknown field "{name}": leave it out'
    refused: dict[str, str] = getattr(model, "refused", {})
    if name in refused:
        return f'"{name}" does not belong here: {refused[name]}'
    known = [field.alias or key for key, field in model.model_fields.items()]
    if near := did_you_mean(name, known):
        return f'unknown field "{name}": did you mean "{near}"?'
    return f'unknown field "{name}": leave it out, or write one of {", ".join(sorted(known))}'


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the model that describes the value at `path`, or None."""
    current: Any = model
    for step in path:
        if isinstance(step, str):
            fields = {field.alias or key: field for key, field in current.model_fields.items()}
            if step not in fields:
                return None
            current = _model_in(fields[step].annotation)
        if current is None:
            return None
    found: type[BaseModel] = current
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text (in quotes where it looks like a number)",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "list_type": "a list (- item)",
    "tuple_type": "a list (- item)",
}


def _wrong_value(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    got = describe(error["input"])
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] in _EXPECTED:
        return f"{_EXPECTED[error['type']]} is expected here, not {got}"
    if error["type"] == "literal_error":
        return _wrong_literal(str(error["input"]), context["expected"], got)
    return _out_of_bounds(error["type"], context, got)


def _wrong_literal(written: str, expected: str, got: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    near = did_you_mean(written, choices)
    hint = f"; did you mean {near}?" if near and len(choices) > 1 else ""
    return f"{got} is not known here: write {' or '.join(choices)}{hint}"


def _out_of_bounds(kind: str, context: dict[str, Any], got: str) -> str:
    match kind:
        case "greater_than_equal":
            return f"{got} is too small: write {context['ge']:g} or more"
        case "greater_than":
            return f"{got} is too small: write more than {context['gt']:g}"
        case "less_than_equal":
            return f"{got} is too large: write {context['le']:g} or less"
        case "too_long":
            return f"too many entries: write at most {context['max_length']}"
        case "too_short" | "string_too_short":
            return "this must not be empty: write at least one, or leave the field out"
        case _:
            return f"{got} does not fit here"


def describe(value: Any) -> str:
    """Return a value as an error message names it."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            shown = masked_text(value)  # Errors are put under pull requests, and a secret may be in the wrong place.
            return f'"{shown}"' if len(shown) <= MAX_SHOWN else f'"{shown[: MAX_SHOWN - 3]}..."'
        case _:
            return str(value)
