"""Our check of Serve's document against Serve's own schema: ours is at least as strict, and never in the way."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.adapters.serve_details import REPLICA_STATES
from specs.canonical import canonical_json
from specs.cells import CellKey
from specs.serve_document import APPLICATION_FIELDS, DEPLOYMENT_FIELDS, check_document, deployed_form

BASE: dict[str, Any] = {"name": "chat", "route_prefix": "/chat", "import_path": "chat.app:build"}


def serve_refuses(document: dict[str, Any]) -> bool:
    """Ask Ray itself, as its dashboard does on a PUT, and then as its controller does for each override."""
    from pydantic import ValidationError
    from ray.serve._private.config import DeploymentConfig, ReplicaConfig
    from ray.serve.schema import ServeDeploySchema

    try:
        # Ray writes into what it is given.
        schema = ServeDeploySchema.model_validate(deepcopy(document))
        for application in schema.applications:
            for deployment in application.deployments:
                options = deployment.model_dump(exclude_unset=True)
                if options.get("num_replicas") == "auto":
                    options["num_replicas"] = None
                    options["autoscaling_config"] = {"max_replicas": 100, **(options.get("autoscaling_config") or {})}
                known = {key: value for key, value in options.items() if key in DeploymentConfig.model_fields}
                DeploymentConfig(**known)
                ReplicaConfig.create(
                    object,
                    ray_actor_options=options.get("ray_actor_options"),
                    placement_group_bundles=options.get("placement_group_bundles"),
                    max_replicas_per_node=options.get("max_replicas_per_node"),
                )
    except (ValidationError, ValueError, TypeError, NotImplementedError):
        return True
    return False


def application(**fields: Any) -> dict[str, Any]:
    return {"applications": [{**BASE, **fields}]}


def deployment(**fields: Any) -> dict[str, Any]:
    return application(deployments=[{"name": "Chat", **fields}])


REFUSED = {
    "no import path": {"applications": [{"name": "chat"}]},
    "import path without attribute": application(import_path="chat"),
    "import path ending in a colon": application(import_path="chat:"),
    "import path with two colons": application(import_path="a:b:c"),
    "empty name": application(name=""),
    "same name twice": {"applications": [BASE, {**BASE, "route_prefix": "/b"}]},
    "same route twice": {"applications": [BASE, {**BASE, "name": "b"}]},
    "same default route twice": {
        "applications": [{"name": "a", "import_path": "a:b"}, {"name": "b", "import_path": "a:b"}]
    },
    "host in an application": application(host="0.0.0.0"),
    "port in an application": application(port=8000),
    "local working_dir": application(runtime_env={"working_dir": "."}),
    "absolute working_dir": application(runtime_env={"working_dir": "/code"}),
    "local py_modules": application(runtime_env={"py_modules": ["./lib"]}),
    "unknown package protocol": application(runtime_env={"working_dir": "ftp://host/a.zip"}),
    "local working_dir of a deployment": deployment(ray_actor_options={"runtime_env": {"working_dir": "x"}}),
    "no deployment name": application(deployments=[{"num_replicas": 1}]),
    "no replicas": deployment(num_replicas=0),
    "a word for a count": deployment(num_replicas="many"),
    "count and bounds": deployment(num_replicas=2, autoscaling_config={"min_replicas": 1}),
    "bounds in the wrong order": deployment(autoscaling_config={"min_replicas": 3, "max_replicas": 2}),
    "bounds above the default maximum": deployment(autoscaling_config={"min_replicas": 3}),
    "initial below the minimum": deployment(
        autoscaling_config={"min_replicas": 2, "max_replicas": 4, "initial_replicas": 1}
    ),
    "initial above the maximum": deployment(
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "initial_replicas": 5}
    ),
    "negative minimum": deployment(autoscaling_config={"min_replicas": -1}),
    "external scaler and bounds": application(
        external_scaler_enabled=True, deployments=[{"name": "Chat", "autoscaling_config": {"max_replicas": 2}}]
    ),
    "external scaler and auto": application(
        external_scaler_enabled=True, deployments=[{"name": "Chat", "num_replicas": "auto"}]
    ),
    "external scaler and empty bounds": application(
        external_scaler_enabled=True, deployments=[{"name": "Chat", "autoscaling_config": {}}]
    ),
    "no ongoing requests": deployment(max_ongoing_requests=0),
    "no queued requests": deployment(max_queued_requests=0),
    "queue of minus two": deployment(max_queued_requests=-2),
    "status code of back-pressure": deployment(backpressure_config={"status_code": 500}),
    "typo in back-pressure": deployment(backpressure_config={"retry_after": 5}),
    "negative shutdown time-out": deployment(graceful_shutdown_timeout_s=-1),
    "no health check period": deployment(health_check_period_s=0),
    "negative cpus": deployment(ray_actor_options={"num_cpus": -1}),
    "a text for gpus": deployment(ray_actor_options={"num_gpus": "one"}),
    "CPU as a custom resource": deployment(ray_actor_options={"resources": {"CPU": 1}}),
    "too fine a cpu": deployment(ray_actor_options={"num_cpus": 0.00001}),
    "label value with a blank": deployment(ray_actor_options={"label_selector": {"zone": "a b"}}),
    "label key with a blank": deployment(ray_actor_options={"label_selector": {"zo ne": "a"}}),
    "unknown fallback": deployment(ray_actor_options={"fallback_strategy": [{"memory": 5}]}),
    "empty fallback": deployment(ray_actor_options={"fallback_strategy": [{}]}),
    "replicas per node and bundles": deployment(max_replicas_per_node=1, placement_group_bundles=[{"CPU": 1}]),
    "replicas per node out of range": deployment(max_replicas_per_node=101),
    "selector without bundles": deployment(placement_group_bundle_label_selector=[{"zone": "a"}]),
    "selectors not matching bundles": deployment(
        placement_group_bundles=[{"CPU": 1}], placement_group_bundle_label_selector=[{"z": "a"}, {"z": "b"}]
    ),
    "replica larger than its bundle": deployment(
        placement_group_bundles=[{"CPU": 1}], ray_actor_options={"num_cpus": 2}
    ),
    "count not in gangs": deployment(num_replicas=3, gang_scheduling_config={"gang_size": 2}),
    "gang of none": deployment(num_replicas=2, gang_scheduling_config={"gang_size": 0}),
    "surge above a hundred": deployment(max_surge_percent=101),
    "rolling update of nothing": deployment(rolling_update_percentage=0.0),
    "unknown log level": deployment(logging_config={"log_level": "LOUD"}),
    "unknown log field": application(logging_config={"level": "INFO"}),
    "target capacity above a hundred": {"applications": [BASE], "target_capacity": 101},
    "unknown proxy location": {"applications": [BASE], "proxy_location": "Somewhere"},
    "applications missing": {},
    "two actors of one name": deployment(
        deployment_actors=[{"name": "a", "actor_class": "m:C"}, {"name": "a", "actor_class": "m:C"}]
    ),
}
"""Documents that Serve refuses, at once or on the live application."""

STRICTER = {
    "route with braces": application(route_prefix="/{user}"),
    "route without slash": application(route_prefix="chat"),
    "route with a slash at the end": application(route_prefix="/chat/"),
    "a gpu and a half": deployment(ray_actor_options={"num_gpus": 1.5}),
    "same deployment twice": application(deployments=[{"name": "Chat"}, {"name": "Chat"}]),
    "a number as text": deployment(max_ongoing_requests="5"),
    "pip and conda": application(runtime_env={"pip": ["a"], "conda": "b"}),
    "numbers in env_vars": application(runtime_env={"env_vars": {"A": 1}}),
}
"""Documents that Serve takes, with a result that nobody asked for."""

ACCEPTED = {
    "nothing": {"applications": []},
    "the least": {"applications": [BASE]},
    "two": {"applications": [BASE, {**BASE, "name": "b", "route_prefix": "/b"}]},
    "no route": application(route_prefix=None),
    "two without routes": {
        "applications": [{**BASE, "route_prefix": None}, {**BASE, "name": "b", "route_prefix": None}]
    },
    "top-level fields": {
        "applications": [BASE],
        "proxy_location": "HeadOnly",
        "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": None},
        "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
        "target_capacity": 50.0,
    },
    "packages": application(
        runtime_env={
            "working_dir": "gcs://_ray_pkg_ab12.zip",
            "py_modules": ["https://host/a.whl", "s3://b/c.zip"],
            "env_vars": {"A": "1"},
            "pip": ["torch"],
        }
    ),
    "a local folder": application(runtime_env={"working_dir": "local:///app"}),
    "a count": deployment(num_replicas=3),
    "auto": deployment(num_replicas="auto"),
    "auto with a minimum": deployment(num_replicas="auto", autoscaling_config={"min_replicas": 5}),
    "bounds": deployment(autoscaling_config={"min_replicas": 1, "max_replicas": 3, "initial_replicas": 2}),
    "bounds and null count": deployment(num_replicas=None, autoscaling_config={"max_replicas": 3}),
    "external scaler": application(external_scaler_enabled=True, deployments=[{"name": "Chat", "num_replicas": 2}]),
    "a policy": deployment(
        autoscaling_config={"max_replicas": 3, "policy": {"policy_function": "json:dumps", "policy_kwargs": {"a": 1}}}
    ),
    "labels": deployment(
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 0.5,
            "memory": 10**9,
            "resources": {"tpu-head": 1},
            "label_selector": {"ray.io/availability-zone": "in(a, b)", "market": "!spot"},
            "fallback_strategy": [{"label_selector": {"ray.io/market-type": "on-demand"}}],
        }
    ),
    "bundles": deployment(
        ray_actor_options={"num_cpus": 1}, placement_group_bundles=[{"CPU": 1, "GPU": 1}, {"GPU": 1}],
        placement_group_strategy="STRICT_PACK",
    ),
    "times": deployment(graceful_shutdown_timeout_s=600, health_check_period_s=1, health_check_timeout_s=2.5),
    "queue": deployment(max_queued_requests=100, max_ongoing_requests=8, backpressure_config={"status_code": 429}),
    "logging": deployment(logging_config={"log_level": "DEBUG", "encoding": "JSON"}),
    "more logging": application(
        logging_config={"log_level": 30, "additional_log_standard_attrs": ["process", "name", "lineno", "name"]}
    ),
    "rolling": deployment(rolling_update_percentage=0.5, max_surge_percent=100),
    "gang": deployment(num_replicas=4, gang_scheduling_config={"gang_size": 2}),
    "user config": deployment(user_config={"a": {"b": [1, 2.0, None]}}),
}  # fmt: skip
"""Documents that must pass."""


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED)
def test_what_serve_refuses_is_refused_before_the_put(document: dict[str, Any]) -> None:
    assert serve_refuses(document)
    assert check_document(document)


@pytest.mark.parametrize("document", STRICTER.values(), ids=STRICTER)
def test_what_serve_takes_for_something_else_is_refused(document: dict[str, Any]) -> None:
    assert check_document(document)


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_what_serve_takes_passes(document: dict[str, Any]) -> None:
    assert not serve_refuses(document)
    assert check_document(document) == []


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_the_deployed_form_is_what_serve_gives_back(document: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    for given_, kept in zip(
        document["applications"], ServeDeploySchema.model_validate(deepcopy(document)).applications, strict=True
    ):
        assert canonical_json(deployed_form(given_)) == canonical_json(
            deployed_form(kept.model_dump(mode="json", exclude_unset=True))
        )


def test_our_list_of_fields_is_serves_own() -> None:
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema

    assert set(DeploymentSchema.model_fields) == DEPLOYMENT_FIELDS
    assert set(ServeApplicationSchema.model_fields) - {"host", "port"} == APPLICATION_FIELDS


def test_every_replica_state_of_serve_has_a_meaning() -> None:
    from ray.serve._private.common import ReplicaState

    assert {state.value for state in ReplicaState} == REPLICA_STATES.keys() | {"STOPPED"}


counts = st.one_of(st.none(), st.integers(-1, 5), st.sampled_from(["auto", "3", 2.0, True]))
bounds = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "min_replicas": st.integers(-1, 4),
            "max_replicas": st.integers(-1, 6),
            "initial_replicas": st.one_of(st.none(), st.integers(-1, 6)),
            "upscale_delay_s": st.floats(-1, 5),
            "target_ongoing_requests": st.floats(-1, 5),
        },
    ),
)
labels = st.dictionaries(st.text("a/.-_ z", min_size=1, max_size=8), st.text("a!in(,) -_", max_size=8), max_size=2)
actor_options = st.fixed_dictionaries(
    {},
    optional={
        "num_cpus": st.one_of(st.none(), st.integers(-1, 3), st.floats(-1, 3)),
        "num_gpus": st.one_of(st.integers(-1, 3), st.floats(0, 3)),
        "resources": st.dictionaries(st.sampled_from(["CPU", "GPU", "x"]), st.floats(-1, 2), max_size=2),
        "label_selector": labels,
        "fallback_strategy": st.lists(st.dictionaries(st.sampled_from(["label_selector", "x"]), labels), max_size=2),
        "runtime_env": st.fixed_dictionaries(
            {}, optional={"working_dir": st.sampled_from([".", "/a", "gcs://_ray_pkg_a.zip", "local://a", "x://y"])}
        ),
    },
)
deployments = st.fixed_dictionaries(
    {"name": st.sampled_from(["A", "B"])},
    optional={
        "num_replicas": counts,
        "autoscaling_config": bounds,
        "max_ongoing_requests": st.integers(-1, 3),
        "max_queued_requests": st.integers(-3, 3),
        "graceful_shutdown_timeout_s": st.one_of(st.integers(-1, 3), st.floats(-1, 3)),
        "health_check_period_s": st.floats(-1, 3),
        "max_replicas_per_node": st.integers(-1, 102),
        "placement_group_bundles": st.lists(
            st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.floats(-1, 3)), max_size=2
        ),
        "gang_scheduling_config": st.fixed_dictionaries({"gang_size": st.integers(0, 3)}),
        "rolling_update_percentage": st.floats(-1, 2),
        "max_surge_percent": st.integers(-1, 101),
        "ray_actor_options": actor_options,
        "user_config": st.one_of(st.none(), st.dictionaries(st.text(max_size=2), st.integers())),
    },
)
applications = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", ""]), "import_path": st.sampled_from(["a:b", "a.b", "a", ":", "a:b:c", ".a"])},
    optional={
        "route_prefix": st.sampled_from(["/", "/a", "/a/", "a", "/{x}", None]),
        "external_scaler_enabled": st.booleans(),
        "deployments": st.lists(deployments, max_size=2),
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=st.fixed_dictionaries({"applications": st.lists(applications, max_size=2)}))
def test_nothing_that_serve_refuses_gets_through(document: dict[str, Any]) -> None:
    if serve_refuses(document):
        assert check_document(document)


composed = st.builds(
    lambda key, replicas, fixed, cpus, timeout: {
        "name": key.name,
        "route_prefix": key.route_prefix,
        "import_path": "app:build",
        "runtime_env": {"working_dir": "gcs://_ray_pkg_ab.zip", "env_vars": {"HELIOSTAT_GATEWAY_URL": "http://g"}},
        **({"external_scaler_enabled": True} if fixed else {}),
        "deployments": [
            {
                "name": "Chat",
                "ray_actor_options": {"num_cpus": cpus, "label_selector": {"ray.io/availability-zone": "a"}},
                "graceful_shutdown_timeout_s": timeout,
                **(
                    {"num_replicas": replicas}
                    if fixed
                    else {"autoscaling_config": {"min_replicas": replicas, "max_replicas": replicas + 1}}
                ),
            }
        ],
    },
    st.builds(
        CellKey,
        service=st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
        revision=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
        zone=st.sampled_from([None, "us-east-1a"]),
        generation=st.integers(0, 99),
    ),
    st.integers(1, 50),
    st.booleans(),
    st.one_of(st.integers(0, 4), st.sampled_from([0.1, 0.5])),
    st.integers(0, 86400),
)


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(composed, max_size=4, unique_by=lambda entry: entry["name"]))
def test_what_heliostat_composes_is_never_in_the_way(entries: list[dict[str, Any]]) -> None:
    document = {"applications": entries}
    assert check_document(document) == []
    assert not serve_refuses(document)
