"""Entries of Serve's document: composed once, counts written beside."""

from __future__ import annotations

import json
from dataclasses import replace

from reconciler.planning.compose import GATEWAY_URL, compose_config, recompose_config, with_counts, without_counts
from specs.canonical import canonical_json
from specs.cells import CellKey
from specs.desired import PackageRef
from specs.memory import Bounds
from tests.builders import cell, revision

KEY = CellKey(service="chat", revision="v1")


def test_an_entry_has_its_own_name_prefix_gateway_and_scaler() -> None:
    entry = json.loads(compose_config(revision("v1"), KEY, "http://gw", autoscaled=False))
    assert (entry["name"], entry["route_prefix"]) == ("chat.v1.-.-.0", "/_/chat.v1.-.-.0")
    assert entry["runtime_env"]["env_vars"] == {GATEWAY_URL: "http://gw"}
    assert entry["external_scaler_enabled"] is True
    assert json.loads(compose_config(revision("v1"), KEY, "", autoscaled=True))["external_scaler_enabled"] is False


def test_a_folder_of_the_commit_becomes_its_content_address_everywhere() -> None:
    package = PackageRef(where="working_dir", commit="c", path="", tree="abc")
    template = {"import_path": "a:b", "runtime_env": {"working_dir": "package://abc", "py_modules": ["package://abc"]}}
    packaged = replace(revision("v1"), template=canonical_json(template), packages=(package,))
    env = json.loads(compose_config(packaged, KEY, "http://gw", autoscaled=False))["runtime_env"]
    assert (env["working_dir"], env["py_modules"]) == ("gcs://_ray_pkg_abc.zip", ["gcs://_ray_pkg_abc.zip"])


def test_a_newer_spec_keeps_the_gateway_address_that_the_cell_was_made_with() -> None:
    made = replace(cell("v1")[0], config=compose_config(revision("v1"), KEY, "http://old", autoscaled=True))
    entry = json.loads(recompose_config(revision("v1"), made))
    assert entry["runtime_env"]["env_vars"][GATEWAY_URL] == "http://old"
    assert entry["external_scaler_enabled"] is False


def test_counts_are_written_for_listed_deployments_only() -> None:
    config = compose_config(revision("v1"), KEY, "", autoscaled=False)
    made = replace(cell("v1")[0], config=config, counts={"Echo": 3, "Unlisted": 5})
    entry = json.loads(with_counts(made, None))
    assert [(one["name"], one["num_replicas"]) for one in entry["deployments"]] == [("Echo", 3)]
    assert without_counts(with_counts(made, None)) == config


def test_bounds_are_written_beside_what_else_scales() -> None:
    template = {"import_path": "a:b", "deployments": [{"name": "Echo", "autoscaling_config": {"policy": "p"}}]}
    config = canonical_json(template)
    made = replace(cell("v1")[0], config=config, counts={}, bounds={"Echo": Bounds(min_replicas=1, max_replicas=4)})
    (deployment,) = json.loads(with_counts(made, None))["deployments"]
    assert deployment["autoscaling_config"] == {"policy": "p", "min_replicas": 1, "max_replicas": 4}
    assert without_counts(with_counts(made, None)) == config


def test_a_count_of_zero_cannot_be_written_and_leaves_what_serves_document_says() -> None:
    memory, seen, _ = cell("v1")
    assert seen is not None
    config = canonical_json({"name": "x", "deployments": [{"name": "Echo"}]})
    document = canonical_json({"name": "x", "deployments": [{"name": "Echo", "num_replicas": 4}]})
    made = replace(memory, config=config, counts={"Echo": 0})
    assert json.loads(with_counts(made, replace(seen, config=document)))["deployments"][0]["num_replicas"] == 4


def test_a_cell_in_a_zone_is_kept_there_beside_what_its_deployments_ask_for() -> None:
    listed = [
        {"name": "Plain", "ray_actor_options": {"num_cpus": 1, "label_selector": {"pool": "gpu"}}},
        {
            "name": "Fallback",
            "ray_actor_options": {"num_cpus": 1, "fallback_strategy": [{"label_selector": {"pool": "cpu"}}]},
        },
        {"name": "Group", "placement_group_bundles": [{"CPU": 1}, {"CPU": 1}]},
    ]
    template = {"import_path": "a:b", "deployments": listed}
    record = replace(revision("v1"), template=canonical_json(template))
    key = CellKey(service="chat", revision="v1", zone="a")
    plain, fallback, group = json.loads(compose_config(record, key, "", autoscaled=False))["deployments"]
    zone = {"ray.io/availability-zone": "a"}
    assert plain["ray_actor_options"] == {"num_cpus": 1, "label_selector": {"pool": "gpu", **zone}}
    assert fallback["ray_actor_options"]["label_selector"] == zone
    assert fallback["ray_actor_options"]["fallback_strategy"] == [{"label_selector": {"pool": "cpu", **zone}}]
    assert group["placement_group_bundle_label_selector"] == [zone]
    assert "ray_actor_options" not in group
    made = replace(cell("v1")[0], key=key, config=compose_config(record, key, "", autoscaled=False))
    assert recompose_config(record, made) == made.config
