"""How Serve's document is composed, compared and searched for masked secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from specs.canonical import canonical_json
from specs.serve_document import (
    check_document,
    compose,
    deployed_form,
    holds_redacted,
    same_application,
    unknown_fields,
)

CHAT: dict[str, Any] = {"name": "chat", "route_prefix": "/chat", "import_path": "chat.app:build"}


def test_one_value_has_one_text() -> None:
    assert canonical_json({"b": [1, "é"], "a": None}) == canonical_json({"a": None, "b": [1, "\u00e9"]})
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"\\u00e9"]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(
    ("wanted", "deployed", "is_same"),
    [
        ({"graceful_shutdown_timeout_s": 600}, {"graceful_shutdown_timeout_s": 600.0}, True),
        ({"ray_actor_options": {"num_cpus": 1}}, {"ray_actor_options": {"num_cpus": 1.0}}, True),
        ({"placement_group_bundles": [{"CPU": 1}]}, {"placement_group_bundles": [{"CPU": 1.0}]}, True),
        ({"logging_config": {"log_level": 10}}, {"logging_config": {"log_level": "DEBUG"}}, True),
        ({"num_replicas": 1}, {"num_replicas": 2}, False),
        ({"num_replicas": 1}, {}, False),
        ({"user_config": {"t": 1}}, {"user_config": {"t": 1.0}}, False),
        ({"ray_actor_options": {"resources": {"x": 1}}}, {"ray_actor_options": {"resources": {"x": 1.0}}}, False),
    ],
)
def test_what_serve_only_writes_otherwise_is_the_same(
    wanted: dict[str, Any], deployed: dict[str, Any], is_same: bool
) -> None:
    one, other = ({**CHAT, "deployments": [{"name": "Chat", **entry}]} for entry in (wanted, deployed))
    assert same_application(canonical_json(one), canonical_json(other)) is is_same


def test_the_deployed_form_leaves_what_it_is_given_alone() -> None:
    given = {**CHAT, "deployments": [{"name": "Chat", "ray_actor_options": {"num_cpus": 1}}]}
    before = json.dumps(given)
    assert deployed_form(deployed_form(given)) == deployed_form(given)
    assert json.dumps(given) == before


def test_foreign_applications_and_top_level_fields_are_composed_as_found() -> None:
    theirs = {**CHAT, "name": "theirs", "args": {"z": 1, "a": 2}}
    document = compose({"target_capacity": None, "proxy_location": "HeadOnly"}, [theirs], [canonical_json(CHAT)])
    assert document == {"proxy_location": "HeadOnly", "applications": [theirs, CHAT]}
    assert list(document["applications"][0]["args"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("value", "is_masked"),
    [
        ({"a": [{"env_vars": {"KEY": "<redacted>"}}]}, True),
        ([("x", "prefix <redacted>")], True),
        ({"a": "redacted", "b": [1, None]}, False),
    ],
)
def test_masked_secrets_are_found_wherever_they_are(value: Any, is_masked: bool) -> None:
    assert holds_redacted(value) is is_masked


def test_each_problem_names_its_place_and_repeats_no_value() -> None:
    wrong = {
        **CHAT,
        "runtime_env": {"env_vars": {"KEY": 5}, "working_dir": "."},
        "deployments": [{"name": "Chat", "num_replicas": 0, "ray_actor_options": {"num_gpus": "s3cret"}}],
    }
    problems = check_document({"applications": [wrong]})
    told = "\n".join(problems)
    for place in ("runtime_env.env_vars.KEY", "runtime_env.working_dir", "num_replicas", "num_gpus"):
        assert f"application chat.{place}" in told or f"deployments.0.{place}" in told or place in told
    assert all(problem.startswith("application chat") for problem in problems)
    assert "s3cret" not in told


def test_applications_that_serve_runs_already_are_only_held_to_what_they_share() -> None:
    theirs = {"name": "theirs", "import_path": "", "route_prefix": "/chat"}
    document = {"applications": [theirs, CHAT]}
    assert check_document(document, accepted=frozenset({"theirs"})) == [
        "route_prefix '/chat' is used by 2 applications"
    ]
    assert len(check_document(document)) == 2


def test_fields_that_serve_would_drop_are_named() -> None:
    odd = {**CHAT, "replicas": 1, "deployments": [{"name": "Chat", "gpus": 1}]}
    assert unknown_fields(odd) == [
        "replicas: Serve does not know this field",
        "deployments.Chat.gpus: Serve does not know this field",
    ]
