"""Rules that need more than one field of a service, or the folders of its commit.

They look at the plain values, so that they speak up even when other fields are wrong: all problems of a
file are listed at once. A value of the wrong type is somebody else's problem and is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specs.analysis import BASELINE_ROOM
from specs.desired import PackageRef
from specs.problems import Problem
from specs.runtime_env import Folders, Place, package_folders, runtime_env_problems
from specs.service import RolloutSpec, StepSpec
from specs.yaml_marks import Path

APPLICATION: Path = ("spec", "application")
DEPLOYMENTS: Path = (*APPLICATION, "deployments")
ROLLOUT: Path = ("spec", "rollout")


def application_problems(application: Any) -> Iterator[Problem]:
    """Yield what is wrong between the fields of `spec.application`."""
    yield from runtime_env_problems(_get(application, "runtime_env"), (*APPLICATION, "runtime_env"))
    names: dict[str, int] = {}
    for index, deployment in _deployments(application):
        path: Path = (*DEPLOYMENTS, index)
        name = deployment.get("name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            message = f'the deployment "{name}" is listed twice: merge the two entries'
            yield Problem(path=(*path, "name"), message=message)
        yield from _scale_problems(deployment, path)
        yield from _placement_problems(deployment, path)
        options = _get(deployment, "ray_actor_options")
        yield from runtime_env_problems(_get(options, "runtime_env"), (*path, "ray_actor_options", "runtime_env"))
        yield from _actor_problems(deployment.get("deployment_actors"), (*path, "deployment_actors"))


def application_packages(application: Any, folders: Folders) -> tuple[tuple[PackageRef, ...], list[Problem]]:
    """Return the packages of all folders that an application names, and what is wrong with its folders."""
    places = [(_get(application, "runtime_env"), Place(path=(*APPLICATION, "runtime_env")))]
    for index, deployment in _deployments(application):
        path = (*DEPLOYMENTS, index, "ray_actor_options", "runtime_env")
        env = _get(_get(deployment, "ray_actor_options"), "runtime_env")
        places.append((env, Place(path=path, where=f"deployments.{deployment.get('name')}")))
    found = [entry for env, place in places for entry in package_folders(env, place, folders)]
    packages = tuple(entry for entry in found if isinstance(entry, PackageRef))
    return packages, [entry for entry in found if isinstance(entry, Problem)]


def rollout_problems(rollout: RolloutSpec, application: Any) -> Iterator[Problem]:
    """Yield what is wrong with a rollout that is well-formed, given the counts of the application."""
    for index, step in enumerate(rollout.steps):
        kinds = (step.set_weight, step.pause, step.analysis, step.set_header_route)
        if sum(kind is not None for kind in kinds) != 1:
            message = (
                "a step is exactly one of setWeight, pause, analysis and setHeaderRoute: write a step for each, such "
                "as - setWeight: 10"
            )
            yield Problem(path=(*ROLLOUT, "steps", index), message=message)
    yield from _policy_problems(rollout)
    yield from _blind_analyses(rollout.steps)
    yield from _client_problems(rollout)
    if rollout.min_ready >= rollout.progress_deadline:
        message = "minReady is not shorter than progressDeadline, so every rollout would fail: write a shorter one"
        yield Problem(path=(*ROLLOUT, "minReady"), message=message)
    yield from _gate_problems(rollout)
    if rollout.max_surge.round_up(1) == 0:
        yield from _no_room(rollout, application)


def _policy_problems(rollout: RolloutSpec) -> Iterator[Problem]:
    """Yield what makes no sense beside a policy that decides about the weights itself."""
    if rollout.policy == "steps":
        return
    if "steps" in rollout.model_fields_set:
        message = f"steps are of no use beside the policy {rollout.policy}: write one of the two"
        yield Problem(path=(*ROLLOUT, "steps"), message=message, at_key=True)
    for index, gate in enumerate(rollout.gates):
        if gate.at == "beforeStep":
            message = f"there are no steps with the policy {rollout.policy}: write at: beforePromotion or afterRollback"
            yield Problem(path=(*ROLLOUT, "gates", index, "at"), message=message)


def _blind_analyses(steps: tuple[StepSpec, ...]) -> Iterator[Problem]:
    """An analysis compares two revisions that both get requests: without that it would wait for ever."""
    weight = 0
    for index, step in enumerate(steps):
        weight = step.set_weight if step.set_weight is not None else weight
        if step.analysis is not None and weight in (0, 100):
            nobody = "the new revision" if weight == 0 else "the old revision"
            message = f"{nobody} gets no requests at this step, so there is nothing to compare: write a setWeight " + (
                "before it" if weight == 0 else "below 100 before it"
            )
            yield Problem(path=(*ROLLOUT, "steps", index, "analysis"), message=message, at_key=True)


def _client_problems(rollout: RolloutSpec) -> Iterator[Problem]:
    """Yield what is wrong with the fields by which single clients are told apart."""
    for index, step in enumerate(rollout.steps):
        for place, match in enumerate(step.set_header_route.match if step.set_header_route else ()):
            if (match.header_value.exact is None) == (match.header_value.prefix is None):
                path = (*ROLLOUT, "steps", index, "setHeaderRoute", "match", place, "headerValue")
                yield Problem(path=path, message="a header value is exactly one of exact and prefix: write one of them")
    if rollout.sticky is not None and (rollout.sticky.cookie is None) == (rollout.sticky.header is None):
        message = "sticky is exactly one of cookie and header: write for instance {cookie: chat-rev}"
        yield Problem(path=(*ROLLOUT, "sticky"), message=message)


def metric_problems(analysis: Any) -> Iterator[Problem]:
    """Yield what is wrong between the fields of the metrics of `spec.analysis`."""
    listed, names = _get(analysis, "metrics"), set()
    for index, metric in enumerate(listed if isinstance(listed, list) else []):
        path: Path = ("spec", "analysis", "metrics", index)
        low, high, name = _get(metric, "min"), _get(metric, "max"), _get(metric, "name")
        if low is None and high is None and isinstance(metric, dict):
            message = "a metric needs min, max or both: write for instance max: 0.05"
            yield Problem(path=path, message=message)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            message = f"min {low:g} is above max {high:g}, so every value would fail: exchange them"
            yield Problem(path=(*path, "min"), message=message)
        if isinstance(name, str) and name in names:
            message = f'the metric "{name}" is listed twice: give each its own name'
            yield Problem(path=(*path, "name"), message=message)
        names.add(name if isinstance(name, str) else "")


def _gate_problems(rollout: RolloutSpec) -> Iterator[Problem]:
    names: set[str] = set()
    for index, gate in enumerate(rollout.gates):
        path: Path = (*ROLLOUT, "gates", index)
        if gate.name in names:
            message = f'the gate "{gate.name}" is listed twice: give each its own name'
            yield Problem(path=(*path, "name"), message=message)
        if gate.at == "afterRollback" and gate.kind == "confirm":
            message = "a rollback waits for nobody: write kind: notify, or at: beforeStep or beforePromotion"
            yield Problem(path=(*path, "kind"), message=message)
        names.add(gate.name)


def _no_room(rollout: RolloutSpec, application: Any) -> Iterator[Problem]:
    """A rollout that may neither add nor take away a replica cannot move."""
    wanted = "write maxSurge: 1 (or 25%), or a larger maxUnavailable"
    if rollout.max_unavailable.round_down(100) == 0:
        message = f"maxSurge and maxUnavailable are both 0, so no replica could ever be replaced: {wanted}"
        yield Problem(path=(*ROLLOUT, "maxSurge"), message=message)
        return
    for _, deployment in _deployments(application):
        for count in _counts(deployment):
            if rollout.max_unavailable.round_down(count) == 0:
                message = (
                    f'for {count} replica{"s" if count > 1 else ""} of "{deployment.get("name")}", maxSurge '
                    f"{rollout.max_surge} and maxUnavailable {rollout.max_unavailable} both round to 0: {wanted}"
                )
                yield Problem(path=(*ROLLOUT, "maxUnavailable"), message=message)
                break


def baseline_problems(analysis: Any, rollout: RolloutSpec | None, application: Any) -> Iterator[Problem]:
    """Yield for which deployment a candidate and a fresh baseline have no room beside who serves."""
    if _get(analysis, "baseline") != "fresh" or rollout is None:
        return
    for _, deployment in _deployments(application):
        for count in _counts(deployment):
            needed = max(1, count - min(count, rollout.max_unavailable.round_down(count)))
            spare = count + rollout.max_surge.round_up(count) - needed
            if spare < BASELINE_ROOM:
                message = (
                    f"a fresh baseline takes {BASELINE_ROOM} replicas beyond those that are needed, and maxSurge "
                    f"{rollout.max_surge} and maxUnavailable {rollout.max_unavailable} leave {spare} of "
                    f'"{deployment.get("name")}" at {count}: write maxSurge: {BASELINE_ROOM}, or leave baseline out'
                )
                yield Problem(path=("spec", "analysis", "baseline"), message=message)
                return


def _counts(deployment: dict[str, Any]) -> list[int]:
    scaling = _get(deployment, "autoscaling_config")
    if isinstance(scaling, dict):
        counts = [scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)]
    else:
        counts = [deployment.get("num_replicas")]
    return [count for count in counts if type(count) is int and count >= 1]


def _scale_problems(deployment: dict[str, Any], path: Path) -> Iterator[Problem]:
    count, scaling = deployment.get("num_replicas"), deployment.get("autoscaling_config")
    if isinstance(scaling, dict):
        yield from _bound_problems(scaling, (*path, "autoscaling_config"))
        if type(count) is int:
            message = "num_replicas and autoscaling_config exclude each other: leave one of them out"
            yield Problem(path=(*path, "num_replicas"), message=message, at_key=True)
    if isinstance(count, str):
        example = "autoscaling_config: {min_replicas: 1, max_replicas: 10}"
        message = f'"{count}" is not a number of replicas: write a whole number, or {example} to scale by load'
        yield Problem(path=(*path, "num_replicas"), message=message)


def _bound_problems(scaling: dict[str, Any], path: Path) -> Iterator[Problem]:
    low, high = scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)
    first = scaling.get("initial_replicas")
    if type(low) is int and low == 0:
        yield Problem(
            path=(*path, "min_replicas"),
            message="scaling to zero is not supported yet, requests would find no replica: write min_replicas: 1",
        )
    if type(low) is not int or type(high) is not int:
        return
    if high < low:
        where = "max_replicas" if "max_replicas" in scaling else "min_replicas"
        said = "" if "max_replicas" in scaling else " (Serve's default)"
        message = f"max_replicas {high}{said} is below min_replicas {low}: write max_replicas: {low} or more"
        yield Problem(path=(*path, where), message=message)
    elif type(first) is int and not low <= first <= high:
        message = f"initial_replicas {first} is not between the bounds: write {low} to {high}"
        yield Problem(path=(*path, "initial_replicas"), message=message)


def _placement_problems(deployment: dict[str, Any], path: Path) -> Iterator[Problem]:
    bundles = deployment.get("placement_group_bundles")
    selectors = deployment.get("placement_group_bundle_label_selector")
    if bundles is not None and deployment.get("max_replicas_per_node") is not None:
        message = "max_replicas_per_node and placement_group_bundles exclude each other: leave one of them out"
        yield Problem(path=(*path, "max_replicas_per_node"), message=message, at_key=True)
    for field in ("placement_group_bundle_label_selector", "placement_group_strategy"):
        if bundles is None and deployment.get(field) is not None:
            message = f"{field} needs placement_group_bundles beside it: add them, or leave this out"
            yield Problem(path=(*path, field), message=message, at_key=True)
    if isinstance(bundles, list) and isinstance(selectors, list) and len(selectors) not in (1, len(bundles)):
        message = f"{len(selectors)} selectors for {len(bundles)} bundles: write one for all, or one for each"
        yield Problem(path=(*path, "placement_group_bundle_label_selector"), message=message)
    if isinstance(bundles, list) and bundles and isinstance(bundles[0], dict):
        yield from _first_bundle_problems(bundles[0], _get(deployment, "ray_actor_options"), path)


def _first_bundle_problems(bundle: dict[str, Any], options: Any, path: Path) -> Iterator[Problem]:
    """The replica's actor runs in the first bundle, so it must fit there."""
    if not isinstance(options, dict):
        return
    needs = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), **(_mapping(options.get("resources")))}
    for resource, needed in needs.items():
        room = bundle.get(resource, 0)
        if isinstance(needed, int | float) and isinstance(room, int | float) and needed > room:
            message = f"a replica needs {needed:g} {resource}, but the first bundle has {room:g}: make it larger"
            yield Problem(path=(*path, "placement_group_bundles", 0), message=message)


def _actor_problems(actors: Any, path: Path) -> Iterator[Problem]:
    names: set[str] = set()
    for index, actor in enumerate(actors if isinstance(actors, list) else []):
        name = _get(actor, "name")
        if isinstance(name, str) and name in names:
            message = f'the actor "{name}" is listed twice: give each its own name'
            yield Problem(path=(*path, index, "name"), message=message)
        names.add(name if isinstance(name, str) else "")
        env = _mapping(_get(_get(actor, "actor_options"), "runtime_env"))
        for field in ("working_dir", "py_modules"):
            if field in env:
                message = "actors run with their deployment's code: write it in ray_actor_options.runtime_env"
                place = (*path, index, "actor_options", "runtime_env", field)
                yield Problem(path=place, message=message, at_key=True)


def _deployments(application: Any) -> list[tuple[int, dict[str, Any]]]:
    listed = _get(application, "deployments")
    entries = listed if isinstance(listed, list) else []
    return [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, dict)]


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
