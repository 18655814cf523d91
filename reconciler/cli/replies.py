"""The daemon's JSON as the frozen values it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from reconciler.api.documents import camel_case

T = TypeVar("T")


def read(kind: type[T], document: object) -> T:
    """Return the value that `document` is the JSON form of; fields of a newer daemon are ignored."""
    return TypeAdapter(kind).validate_json(json.dumps(_renamed(kind, document)))


def _renamed(kind: Any, document: Any) -> Any:
    """Give fields their own names again. Only fields: a mapping's keys are data."""
    if document is None:
        return None
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {camel_case(name): (name, hint) for name, hint in hints.items()}
        return {known[key][0]: _renamed(known[key][1], item) for key, item in document.items() if key in known}
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return [_renamed(arguments[0], item) for item in document]
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return {key: _renamed(arguments[1], item) for key, item in document.items()}
    choice = next((argument for argument in arguments if is_dataclass(argument)), None)
    return document if choice is None else _renamed(choice, document)


def as_json(document: object) -> str:
    """Return the one JSON document that `-o json` prints."""
    return json.dumps(document, indent=2, ensure_ascii=False)
