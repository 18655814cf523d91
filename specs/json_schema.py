"""JSON Schema of spec files, for editors: completion, descriptions and red underlines while typing.

It says what can be said about one field. Rules between fields, and folders of the commit, need `validate`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from specs.amount import Amount
from specs.cluster_policy import ClusterPolicy
from specs.durations import format_duration
from specs.service import Service
from specs.strict import StrictModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

KINDS: dict[str, type[StrictModel]] = {"service": Service, "clusterpolicy": ClusterPolicy}


def json_schema(kind: str | None = None) -> dict[str, Any]:
    """Return the schema of one kind (`service` or `clusterpolicy`), or of any of them."""
    if kind is not None:
        return {"$schema": DIALECT, **_schema_of(KINDS[kind])}
    definitions: dict[str, Any] = {}
    for model in KINDS.values():
        schema = _schema_of(model)
        definitions |= schema.pop("$defs", {})
        definitions[model.__name__] = schema
    choices = [{"$ref": f"#/$defs/{model.__name__}"} for model in KINDS.values()]
    return {"$schema": DIALECT, "title": "Heliostat spec", "oneOf": choices, "$defs": definitions}


class _Generator(GenerateJsonSchema):
    """Writes defaults as people write them in a spec."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return format_duration(dft)
            case Amount():
                return str(dft) if dft.is_percent else dft.value
            case BaseModel() | tuple() | dict():
                return None  # Every field inside tells its own default.
            case _:
                return super().encode_default(dft)


EXACTLY_ONE = {"StepSpec", "HeaderValueSpec", "StickySpec"}
"""Mappings of which exactly one field is written."""


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    for name in EXACTLY_ONE & schema.get("$defs", {}).keys():
        schema["$defs"][name] |= {"minProperties": 1, "maxProperties": 1}
    simple: dict[str, Any] = _simplify(schema)
    return {"title": model.__name__, **simple}


def _simplify(schema: Any) -> Any:
    """Drop generated titles and the null that only means "left out": editors would offer both."""
    if isinstance(schema, list):
        return [_simplify(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: part for key, part in schema.items() if not _is_noise(key, part)}
    choices = kept.get("anyOf")
    if isinstance(choices, list):
        real = [choice for choice in choices if choice != {"type": "null"}]
        if len(real) == 1:
            kept.pop("anyOf")
            kept = {**real[0], **kept}
        else:
            kept["anyOf"] = real
    return {
        key: {name: _simplify(part) for name, part in value.items()} if key in _NAMED else _simplify(value)
        for key, value in kept.items()
    }


_NAMED = ("properties", "$defs")
"""Keywords whose keys are names of ours, never keywords: a field called `title` must survive."""


def _is_noise(key: str, part: Any) -> bool:
    return (key == "title" and isinstance(part, str)) or (key == "default" and part is None)
