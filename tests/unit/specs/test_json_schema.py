"""The JSON Schema that editors get agrees with what is accepted."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from specs.json_schema import json_schema
from tests.unit.specs.commits import read
from tests.unit.specs.test_parse import CHAT, FULL, POLICY
from tests.unit.specs.test_service_rules import DEPLOYMENTS, ROLLOUTS, with_deployment, with_rollout


def accepts(text: str, kind: str | None = None) -> bool:
    validator = jsonschema.Draft202012Validator(json_schema(kind))
    return bool(validator.is_valid(yaml.safe_load(text)))


@pytest.mark.parametrize("kind", [None, "service", "clusterpolicy"])
def test_the_schema_is_one(kind: str | None) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("text", [CHAT, FULL])
def test_good_services_pass(text: str) -> None:
    assert accepts(text, "service")
    assert accepts(text)
    assert not accepts(text, "clusterpolicy")


def test_a_good_policy_passes() -> None:
    assert accepts(POLICY, "clusterpolicy")
    assert accepts(POLICY)
    assert not accepts(POLICY, "service")


BETWEEN_FIELDS = ("exclude", "is below", "is not between", "listed twice", "needs", "selectors for", "round to 0")
"""Rules between fields, and of Python: beyond JSON Schema."""


@pytest.mark.parametrize(
    "text",
    [with_deployment(text) for text, error in DEPLOYMENTS if not any(part in error for part in BETWEEN_FIELDS)]
    + [with_rollout(text) for text, _ in ROLLOUTS],
)
def test_what_editors_underline_is_an_error_and_most_errors_are_underlined(text: str) -> None:
    hard = (
        "are both 0",
        "nothing to compare",
        "minReady is not",
        "must be longer",
        "101%",
        "actors run",
        "label",
        "GPU is not",
        "one machine",
    )
    messages = [error.message for error in read(text).errors]
    assert messages
    if not any(part in message for message in messages for part in (*hard, *BETWEEN_FIELDS, "max_queued", "YAML")):
        assert not accepts(text, "service"), messages


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for part in schema for found in objects(part)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if "properties" in schema else []
    return own + [found for part in schema.values() for found in objects(part)]


def test_every_mapping_of_ours_is_closed() -> None:
    found = objects(json_schema())
    assert len(found) > 20
    assert all(schema["additionalProperties"] is False for schema in found)


def test_heliostats_own_fields_are_described() -> None:
    definitions = json_schema()["$defs"]
    ours = [name for name, schema in definitions.items() if name.endswith("Spec") or name in ("PauseStep", "Metadata")]
    fields = [field for name in ours for field in definitions[name]["properties"].values()]
    assert len(fields) > 20
    assert all("description" in field for field in fields)


def test_defaults_are_written_as_in_a_spec() -> None:
    rollout = json_schema("service")["$defs"]["RolloutSpec"]["properties"]
    assert {name: field.get("default") for name, field in rollout.items()} == {
        "steps": None,
        "policy": "steps",
        "rollbackPolicy": "failures",
        "maxSurge": "25%",
        "maxUnavailable": 0,
        "minReady": "10s",
        "progressDeadline": "10m",
        "scaleDownDelay": "30s",
        "autoRollback": True,
        "rollbackWindow": 3,
        "bake": "0s",
        "onInconclusive": "hold",
        "sticky": None,
        "gates": None,
    }
