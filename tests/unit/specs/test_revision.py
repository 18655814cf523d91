"""What a revision is made of: ids that only real changes move, and templates that Serve can be given."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.desired import AutoScale, DesiredDeployment, FixedScale, Revision
from specs.revision import IN_PLACE, in_place_differs
from specs.serve_application import Autoscaling, Deployment, RayActorOptions
from tests.unit.specs.commits import KnownFolders, read

FULL: dict[str, Any] = {
    "import_path": "chat.app:build",
    "args": {"model": "small", "ratio": 0.5, "nothing": None, "list": []},
    "runtime_env": {"working_dir": "app", "py_modules": ["lib", "s3://b/x.zip"], "env_vars": {"A": "b"}},
    "logging_config": {"log_level": "INFO"},
    "deployments": [
        {
            "name": "Chat",
            "num_replicas": 4,
            "user_config": {"threshold": 1},
            "ray_actor_options": {"num_cpus": 1, "resources": {"fpga": 1}, "runtime_env": {"working_dir": "."}},
        },
        {
            "name": "Embed.v2",
            "autoscaling_config": {
                "min_replicas": 1,
                "max_replicas": 3,
                "initial_replicas": 2,
                "upscale_delay_s": 5,
                "policy": {"policy_function": "chat:scale"},
            },
            "ray_actor_options": {"runtime_env": {"py_modules": ["lib"]}},
        },
    ],
}


def revision(application: Any, *, longest: str = "10m", folders: KnownFolders | None = None) -> Revision:
    document = {
        "apiVersion": "heliostat.dev/v1alpha1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {"application": application, "maxRequestDuration": longest},
    }
    desired = read(json.dumps(document), folders=folders)
    assert desired.errors == ()
    return desired.services[0].revision


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return FULL with one value replaced; `...` removes it."""
    whole: dict[str, Any] = json.loads(json.dumps(FULL))
    owner: Any = whole
    for step in path[:-1]:
        owner = owner[step]
    if value is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return whole


GOLDEN_TEMPLATE = (
    '{"args":{"list":[],"model":"small","nothing":null,"ratio":0.5},"deployments":[{"autoscaling_config":null,'
    '"graceful_shutdown_timeout_s":600.0,"name":"Chat","ray_actor_options":{"num_cpus":1.0,"resources":{"fpga":1.0},"runtime_env":{"working_dir":'
    '"package://ROOT"}},"user_config":{"threshold":1}},{"autoscaling_config":{"policy":{"policy_function":"chat:scale"},'
    '"upscale_delay_s":5.0},"graceful_shutdown_timeout_s":600.0,"name":"Embed.v2","ray_actor_options":{"runtime_env":'
    '{"py_modules":["package://LIB"]}}}],"import_path":"chat.app:build","logging_config":{"log_level":"INFO"},'
    '"runtime_env":{"env_vars":{"A":"b"},"py_modules":["package://LIB","s3://b/x.zip"],"working_dir":"package://APP"}}'
)


def test_the_template_is_the_application_without_counts_and_with_packages() -> None:
    known = KnownFolders()
    found = revision(FULL)
    trees = {
        "ROOT": known.package_id("", keep_folder=False),
        "APP": known.package_id("app", keep_folder=False),
        "LIB": known.package_id("lib", keep_folder=True),
    }
    expected = GOLDEN_TEMPLATE
    for name, tree in trees.items():
        expected = expected.replace(f"package://{name}", f"package://{tree}")
    assert found.template == expected
    assert found.max_request_duration == timedelta(minutes=10)
    assert found.deployments == (
        DesiredDeployment(name="Chat", scale=FixedScale(replicas=4)),
        DesiredDeployment(name="Embed.v2", scale=AutoScale(min_replicas=1, max_replicas=3, initial_replicas=2)),
    )
    assert [(package.where, package.path, package.keep_folder) for package in found.packages] == [
        ("deployments.Chat.working_dir", "", False),
        ("deployments.Embed.v2.py_modules.0", "lib", True),
        ("py_modules.0", "lib", True),
        ("working_dir", "app", False),
    ]
    assert {package.tree for package in found.packages} == set(trees.values())


GOLDEN_IDS = {
    "full": (FULL, "e835f31b15b0"),
    "smallest": ({"import_path": "chat:app"}, "8565126d4012"),
    "text": ({"import_path": "chat:app", "args": {"grüße": "\u2028 ☃ \x7f", "n": 1.5, "m": -0.0}}, "c45f5581a980"),
}


@pytest.mark.parametrize(("application", "expected"), GOLDEN_IDS.values(), ids=GOLDEN_IDS)
def test_ids_never_change_between_versions(application: dict[str, Any], expected: str) -> None:
    """Another id for the same spec would roll out every service of every user at an upgrade of Heliostat."""
    assert revision(application).id == expected


RESTARTS = [
    (("import_path",), "chat.app:other"),
    (("args", "model"), "large"),
    (("args", "ratio"), 1),
    (("args", "nothing"), ...),
    (("args", "list"), [1]),
    (("runtime_env", "working_dir"), "lib"),
    (("runtime_env", "working_dir"), ...),
    (("runtime_env", "py_modules"), ["s3://b/x.zip", "lib"]),
    (("runtime_env", "env_vars", "A"), "c"),
    (("runtime_env", "pip"), ["a==1"]),
    (("deployments", 0, "ray_actor_options", "num_cpus"), 2),
    (("deployments", 0, "ray_actor_options", "num_gpus"), 1),
    (("deployments", 0, "ray_actor_options", "memory"), 1000),
    (("deployments", 0, "ray_actor_options", "accelerator_type"), "A10G"),
    (("deployments", 0, "ray_actor_options", "resources"), ...),
    (("deployments", 0, "ray_actor_options", "label_selector"), {"zone": "a"}),
    (("deployments", 0, "ray_actor_options", "fallback_strategy"), [{"label_selector": {"zone": "b"}}]),
    (("deployments", 0, "ray_actor_options", "runtime_env"), {"working_dir": "lib"}),
    (("deployments", 0, "ray_actor_options"), ...),
    (("deployments", 0, "max_replicas_per_node"), 2),
    (("deployments", 0, "placement_group_bundles"), [{"CPU": 1, "fpga": 1}]),
    (("deployments", 0, "request_router_config"), {"max_backoff_s": 1}),
    (("deployments", 0, "deployment_actors"), [{"name": "a", "actor_class": "m:A"}]),
    (("deployments", 1, "autoscaling_config", "policy"), ...),
    (("deployments", 1, "autoscaling_config", "policy", "policy_function"), "chat:other"),
    (("deployments", 1, "autoscaling_config", "policy", "policy_kwargs"), {"x": 1}),
    (("deployments", 1, "autoscaling_config"), ...),
    (("deployments", 1, "name"), "Embed.v3"),
]


@pytest.mark.parametrize(("path", "value"), RESTARTS)
def test_what_makes_serve_restart_is_another_revision(path: tuple[str | int, ...], value: Any) -> None:
    assert revision(changed(path, value)).id != revision(FULL).id
    assert not in_place_differs(revision(changed(path, value)), revision(FULL))


APPLIED_IN_PLACE: list[tuple[tuple[str | int, ...], Any]] = [
    (("logging_config",), ...),
    (("logging_config", "log_level"), "DEBUG"),
    (("deployments", 0, "num_replicas"), ...),
    (("deployments", 0, "user_config"), ...),
    (("deployments", 0, "user_config"), None),
    (("deployments", 0, "user_config", "threshold"), 1.5),
    (("deployments", 0, "max_ongoing_requests"), 7),
    (("deployments", 0, "max_queued_requests"), 7),
    (("deployments", 0, "backpressure_config"), {"status_code": 429}),
    (("deployments", 0, "graceful_shutdown_wait_loop_s"), 1),
    (("deployments", 0, "health_check_period_s"), 1),
    (("deployments", 0, "health_check_timeout_s"), 1),
    (("deployments", 0, "logging_config"), {"enable_access_log": False}),
    (("deployments", 0, "rolling_update_percentage"), 0.5),
    (("deployments", 0, "max_surge_percent"), 10),
    (("deployments", 1, "autoscaling_config", "upscale_delay_s"), 6),
    (("deployments", 1, "autoscaling_config", "target_ongoing_requests"), 6),
]


@pytest.mark.parametrize(("path", "value"), APPLIED_IN_PLACE)
def test_what_serve_applies_in_place_keeps_the_id_and_changes_the_template(
    path: tuple[str | int, ...], value: Any
) -> None:
    new, old = revision(changed(path, value)), revision(FULL)
    assert new.id == old.id
    assert in_place_differs(new, old)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("deployments", 0, "num_replicas"), 9),
        (("deployments", 1, "autoscaling_config", "min_replicas"), 2),
        (("deployments", 1, "autoscaling_config", "max_replicas"), 7),
        (("deployments", 1, "autoscaling_config", "initial_replicas"), ...),
    ],
)
def test_counts_and_bounds_are_in_neither(path: tuple[str | int, ...], value: Any) -> None:
    new, old = revision(changed(path, value)), revision(FULL)
    assert (new.id, new.template) == (old.id, old.template)
    assert new.deployments != old.deployments


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("deployments", 0, "ray_actor_options", "num_cpus"), 1.0),
        (("deployments", 0, "ray_actor_options", "num_gpus"), None),
        (("deployments", 0, "ray_actor_options", "resources", "fpga"), 1.0),
        (("deployments", 0, "ray_actor_options", "label_selector"), {}),
        (("deployments", 0, "request_router_config"), {}),
        (("deployments", 0, "max_replicas_per_node"), None),
        (("deployments", 1, "autoscaling_config", "policy", "policy_kwargs"), {}),
        (("deployments", 1, "autoscaling_config", "upscale_delay_s"), 5.0),
        (("deployments", 1, "num_replicas"), None),
        (("deployments",), list(reversed(FULL["deployments"]))),
    ],
)
def test_two_spellings_are_one_template(path: tuple[str | int, ...], value: Any) -> None:
    assert revision(changed(path, value)) == revision(FULL)


def test_empty_and_absent_are_one_template() -> None:
    plain = revision({"import_path": "chat:app"})
    assert revision({"import_path": "chat:app", "args": {}, "runtime_env": {}, "deployments": []}) == plain
    assert revision({"import_path": "chat:app", "args": None, "deployments": None}) == plain


def test_listing_a_deployment_for_its_count_alone_is_no_new_revision() -> None:
    plain = {"import_path": "chat:app"}
    listed = {**plain, "deployments": [{"name": "Chat", "num_replicas": 2}, {"name": "Rank", "user_config": {}}]}
    assert revision(listed).id == revision(plain).id
    assert in_place_differs(revision(listed), revision(plain))


def test_pushed_code_is_another_revision_wherever_it_lies() -> None:
    before = KnownFolders({"": "root", "app": "v1", "lib": "lib", "moved": "v1"})
    after = KnownFolders({"": "root", "app": "v2", "lib": "lib", "moved": "v1"})
    first = revision(FULL, folders=before)
    assert revision(FULL, folders=after).id != first.id
    moved = revision(changed(("runtime_env", "working_dir"), "moved"), folders=before)
    assert (moved.id, moved.template) == (first.id, first.template)


def test_the_longest_request_is_part_of_the_revision_however_it_is_written() -> None:
    assert revision(FULL, longest="11m").id != revision(FULL).id
    assert revision(FULL, longest="600s") == revision(FULL)
    timeouts = [
        entry["graceful_shutdown_timeout_s"]
        for entry in json.loads(revision(FULL, longest="90s").template)["deployments"]
    ]
    assert timeouts == [90.0, 90.0]


def test_every_field_of_a_deployment_was_decided_upon() -> None:
    """A new field must be put into one of the two lists before it can be written in a spec."""
    tried = {path[2] for path, _ in [*RESTARTS, *APPLIED_IN_PLACE] if path[0] == "deployments" and len(path) > 2}
    needs_bundles = {"placement_group_strategy", "placement_group_bundle_label_selector"}
    assert set(Deployment.model_fields) - tried - needs_bundles == set()
    in_place = {str(path[2]) for path, _ in APPLIED_IN_PLACE if path[0] == "deployments"}
    assert in_place - {"autoscaling_config", "num_replicas"} | {"graceful_shutdown_timeout_s"} == IN_PLACE
    options = {
        path[3]
        for path, _ in RESTARTS
        if path[0] == "deployments" and path[2:3] == ("ray_actor_options",) and len(path) > 3
    }
    assert options == set(RayActorOptions.model_fields)
    assert {"min_replicas", "max_replicas", "initial_replicas", "policy"} < set(Autoscaling.model_fields)


@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_never_matters(random: Any) -> None:
    assert revision(shuffled(FULL, random)) == revision(FULL)


def shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item, random)) for key, item in value.items()]
        random.shuffle(items)
        return dict(items)
    return [shuffled(item, random) for item in value] if isinstance(value, list) else value
