"""Serve's report in our words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve._private import deployment_state

from reconciler.adapters.serve_details import parse_details, to_seen
from reconciler.errors import Retry
from reconciler.ports import ServeSeen
from specs.observed import CellStatus, Endpoint, ReplicaState

ZONES = {"n1": "a", "n2": "b"}


def report(**fields: Any) -> dict[str, Any]:
    application = {
        "name": "chat",
        "route_prefix": "/chat",
        "docs_path": "/docs",
        "status": "RUNNING",
        "message": "",
        "last_deployed_time_s": 1_700_000_000.5,
        "deployed_app_config": {"name": "chat", "import_path": "a:b"},
        "source": "declarative",
        "deployments": {"Chat": deployment()},
        "deployment_topology": {"ingress_deployment": "Chat"},
    }
    return {"controller_info": {"actor_id": "1"}, "applications": {"chat": application | fields}}


def deployment(*replicas: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "name": "Chat",
        "status": "HEALTHY",
        "message": "",
        "deployment_config": {"name": "Chat", "num_replicas": 1},
        "target_num_replicas": 1,
        "replicas": list(replicas),
        **fields,
    }


def replica(name: str, state: str = "RUNNING", node: str | None = "n1") -> dict[str, Any]:
    return {"replica_id": name, "state": state, "node_id": node, "start_time_s": 1.0, "actor_name": f"x#{name}"}


def seen(document: dict[str, Any]) -> ServeSeen:
    return to_seen(parse_details(document), ZONES)


@pytest.mark.parametrize(
    ("state", "folded"),
    [
        ("STARTING", ReplicaState.STARTING),
        ("UPDATING", ReplicaState.STARTING),
        ("RUNNING", ReplicaState.RUNNING),
        ("PENDING_MIGRATION", ReplicaState.RUNNING),
        ("RECOVERING", ReplicaState.RUNNING),
        ("STOPPING", ReplicaState.STOPPING),
    ],
)
def test_serves_replica_states_are_folded_into_ours(state: str, folded: ReplicaState) -> None:
    found = seen(report(deployments={"Chat": deployment(replica("r1", state))}))
    assert [one.state for one in found.cells[0].deployments[0].replicas] == [folded]


def test_replicas_that_hold_nothing_are_not_counted() -> None:
    replicas = (replica("gone", "STOPPED"), replica("never", "STOPPING", None), replica("waits", "STARTING", None))
    found = seen(report(deployments={"Chat": deployment(*replicas)}))
    assert [(one.id, one.node) for one in found.cells[0].deployments[0].replicas] == [("waits", "")]


def test_endpoints_are_replicas_and_never_proxies() -> None:
    targets = [
        {"ip": "10.0.0.2", "port": 30001, "instance_id": "", "name": "SERVE_REPLICA::chat#Chat#r2"},
        {"ip": "10.0.0.1", "port": 30000, "instance_id": "", "name": "SERVE_REPLICA::chat#Chat#r1"},
        {"ip": "10.0.0.1", "port": 8000, "instance_id": "", "name": "SERVE_PROXY_ACTOR-n1"},
    ]
    document = report(deployments={"Chat": deployment(replica("r1"), replica("r2", node="n2"))})
    document["target_groups"] = [
        {"protocol": "HTTP", "route_prefix": "/chat", "app_name": "chat", "targets": targets},
        {"protocol": "gRPC", "route_prefix": "/chat", "app_name": "chat", "targets": targets[:1]},
        {"protocol": "HTTP", "route_prefix": "/", "app_name": "", "targets": targets},
    ]
    assert seen(document).cells[0].endpoints == (
        Endpoint(ip="10.0.0.1", port=30000, replica="r1", node="n1", zone="a"),
        Endpoint(ip="10.0.0.2", port=30001, replica="r2", node="n2", zone="b"),
    )


@pytest.mark.parametrize(
    ("config", "room"),
    [
        ({"max_ongoing_requests": 8}, 8),
        ({"max_ongoing_requests": 8, "autoscaling_config": {"target_ongoing_requests": 2.5}}, 2),
        ({"max_ongoing_requests": 8, "autoscaling_config": {"target_ongoing_requests": 0.5}}, 1),
        ({"max_ongoing_requests": 3, "autoscaling_config": {"target_ongoing_requests": 20}}, 3),
        ({}, 0),
    ],
    ids=["fixed", "autoscaled", "less than one", "more than it takes", "not told"],
)
def test_a_replica_s_room_is_what_serve_gives_it_at_once(config: dict[str, Any], room: int) -> None:
    chat = {**deployment(replica("r1")), "deployment_config": config}
    backend = {**deployment(replica("r2")), "deployment_config": {"max_ongoing_requests": 99}}
    document = report(deployments={"Chat": chat, "Backend": backend})
    target = {"ip": "10.0.0.1", "port": 30000, "instance_id": "", "name": "SERVE_REPLICA::chat#Chat#r1"}
    document["target_groups"] = [
        {"protocol": "HTTP", "app_name": "chat", "ingress_deployment_name": "Chat", "targets": [target]}
    ]
    assert [endpoint.room for endpoint in seen(document).cells[0].endpoints] == [room]


def test_proxies_are_those_that_are_healthy() -> None:
    document = report()
    document["http_options"] = {"port": 9000}
    document["proxies"] = {
        "n1": {"node_ip": "10.0.0.1", "actor_name": "P1", "status": "HEALTHY"},
        "n2": {"node_ip": "10.0.0.2", "actor_name": "P2", "status": "DRAINING"},
    }
    assert seen(document).proxies == (Endpoint(ip="10.0.0.1", port=9000, replica="P1", node="n1", zone="a"),)


def test_an_application_under_construction_is_building_and_one_that_failed_is_not() -> None:
    building = seen(report(status="DEPLOYING", deployments={}, route_prefix=None)).cells[0]
    assert building.is_building
    assert not seen(report(status="DEPLOY_FAILED", deployments={})).cells[0].is_building
    assert not seen(report(status="DEPLOYING")).cells[0].is_building


def test_scale_ingress_and_config_are_told() -> None:
    auto = deployment(deployment_config={"name": "Chat", "autoscaling_config": {"min_replicas": 1}})
    document = report(
        deployments={"Chat": auto, "Back": deployment(name="Back")},
        deployed_app_config={"name": "chat", "deployments": [{"name": "Chat", "graceful_shutdown_timeout_s": 20}]},
    )
    cell = seen(document).cells[0]
    assert [(one.name, one.is_ingress, one.is_autoscaled) for one in cell.deployments] == [
        ("Back", False, False),
        ("Chat", True, True),
    ]
    assert cell.config == '{"deployments":[{"graceful_shutdown_timeout_s":20.0,"name":"Chat"}],"name":"chat"}'
    assert cell.last_deployed_at is not None
    assert cell.last_deployed_at.isoformat() == "2023-11-14T22:13:20.500000+00:00"


def test_an_application_of_a_script_has_no_config() -> None:
    cell = seen(report(source="imperative", deployed_app_config=None)).cells[0]
    assert cell.config is None
    assert not cell.is_declarative
    assert cell.status is CellStatus.RUNNING


def test_serve_that_never_ran_is_told_from_an_empty_one() -> None:
    never: dict[str, Any] = {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
    assert not seen(never).running
    assert seen({**never, "controller_info": {"node_id": "n1"}}).running


@pytest.mark.parametrize(
    "document",
    [[], {"applications": []}, report(deployments={"Chat": {"name": "Chat"}}), report(status="CONFUSED"), None],
)
def test_a_report_that_cannot_be_read_is_no_empty_cluster(document: Any) -> None:
    with pytest.raises(Retry):
        seen(document)


def test_a_report_that_cannot_be_read_shows_no_secrets() -> None:
    config = {"runtime_env": {"env_vars": {"KEY": "s3cret"}}}
    with pytest.raises(Retry) as raised:
        seen(report(deployed_app_config=[config]))
    assert "deployed_app_config" in raised.value.reason
    assert "s3cret" not in raised.value.reason


SLOW = (
    "Deployment 'Chat' in application 'chat' has 1 replicas that have taken more than 30s to be scheduled. This may be "
    "due to waiting for the cluster to auto-scale or for a runtime environment to be installed."
)


def test_what_a_replica_needs_and_that_it_has_no_node_is_read() -> None:
    options = {"num_cpus": 2, "num_gpus": 0.5, "memory": 1024, "resources": {"tpu": 1}, "label_selector": {"zone": "a"}}
    document = report(
        deployments={"Chat": deployment(message=SLOW, deployment_config={"name": "Chat", "ray_actor_options": options})}
    )
    (found,) = seen(document).cells[0].deployments
    assert found.needs == {"CPU": 2.0, "GPU": 0.5, "memory": 1024.0, "tpu": 1.0}
    assert found.selector == {"zone": "a"}
    assert found.is_unplaced


def test_a_replica_that_has_a_node_and_does_not_get_ready_waits_for_no_room() -> None:
    message = SLOW.replace("to be scheduled", "to initialize")
    (found,) = seen(report(deployments={"Chat": deployment(message=message)})).cells[0].deployments
    assert not found.is_unplaced
    assert found.needs == {"CPU": 1.0}


def test_bundles_are_added_up() -> None:
    config = {"name": "Chat", "placement_group_bundles": [{"CPU": 1, "GPU": 1}, {"GPU": 2}]}
    (found,) = seen(report(deployments={"Chat": deployment(deployment_config=config)})).cells[0].deployments
    assert found.needs == {"CPU": 1.0, "GPU": 3.0}


def test_serve_still_says_it_in_these_words() -> None:
    source = Path(deployment_state.__file__).read_text()
    assert 's to be scheduled. "' in source
    assert 'f"have taken more than {SLOW_STARTUP_WARNING_S}' in source
