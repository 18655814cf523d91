"""Which fields of two documents differ, and what a difference of each leads to. No secret leaves this module."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from specs.cluster_policy import ClusterPolicy
from specs.desired import AutoScale, DesiredDeployment, DesiredService, FixedScale
from specs.masking import masked
from specs.planned import Consequence, FieldChange
from specs.rendered import rendered
from specs.revision import PACKAGE_SCHEME, restart_form
from specs.service import Service

MAX_VALUE = 300
"""Longer values are cut: a plan is read, and its documents have the rest."""

_ABSENT = object()
_OWN_CONSEQUENCE = {
    "route": Consequence.ROUTE,
    "maxRequestDuration": Consequence.REVISION,
    "loading": Consequence.REVISION,
}

Path = tuple[str | int, ...]


def fields_of(old: tuple[DesiredService, Service], new: tuple[DesiredService, Service]) -> tuple[FieldChange, ...]:
    """Return the fields that differ between two forms of a service, each with its document."""
    found = [*_application_fields(old[0], new[0]), *_other_fields(old[1], new[1])]
    return tuple(sorted(found, key=lambda field: (list(Consequence).index(field.consequence), field.path)))


def policy_fields(old: ClusterPolicy | None, new: ClusterPolicy | None) -> tuple[FieldChange, ...]:
    """Return the fields that differ between two ClusterPolicies; None is the one with all defaults."""
    before, after = (rendered(one, with_defaults=True)["spec"] if one is not None else {} for one in (old, new))
    return tuple(_changes(before, after, (), Consequence.SETTINGS))


def _application_fields(old: DesiredService, new: DesiredService) -> Iterator[FieldChange]:
    """Compare templates, not what is written: two spellings of one meaning are no change."""
    before, after = _template(old), _template(new)
    if old.revision.id != new.revision.id:
        forms = [_named(restart_form(template)) for template in (before, after)]
        yield from _changes(forms[0], forms[1], ("application",), Consequence.REVISION)
    forms = [_named(_in_place_form(template)) for template in (before, after)]
    yield from _changes(forms[0], forms[1], ("application",), Consequence.IN_PLACE)
    counts = [_counts(service.revision.deployments) for service in (old, new)]
    yield from _changes(counts[0], counts[1], ("application", "deployments"), Consequence.SCALE)


def _other_fields(old: Service, new: Service) -> Iterator[FieldChange]:
    before, after = (rendered(model, with_defaults=True) for model in (old, new))
    name = new.metadata.name
    for document in (before, after):
        document["spec"].pop("application")
        document["spec"]["route"] = document["spec"].get("route") or f"/{name}"
    yield from _changes(before["metadata"], after["metadata"], ("metadata",), Consequence.SETTINGS)
    for key in sorted(before["spec"].keys() | after["spec"].keys()):
        consequence = _OWN_CONSEQUENCE.get(key, Consequence.SETTINGS)
        yield from _changes(before["spec"].get(key, _ABSENT), after["spec"].get(key, _ABSENT), (key,), consequence)


def _template(service: DesiredService) -> dict[str, Any]:
    """Return a revision's template with each package as the folder that it is made from."""
    names = {
        PACKAGE_SCHEME + package.tree: f"{package.path or '.'} @ {package.tree[:12]}"
        for package in service.revision.packages
    }
    template: dict[str, Any] = _renamed(json.loads(service.revision.template), names)
    for deployment in template.get("deployments", ()):
        deployment.pop("graceful_shutdown_timeout_s", None)  # maxRequestDuration, which is told by its own name
    return template


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    match value:
        case dict():
            return {key: _renamed(item, names) for key, item in value.items()}
        case list():
            return [_renamed(item, names) for item in value]
        case str():
            return names.get(value, value)
        case _:
            return value


def _named(form: dict[str, Any]) -> dict[str, Any]:
    """Return a form whose deployments are told apart by name, not by their place in the list."""
    deployments = {
        entry["name"]: {key: value for key, value in entry.items() if key != "name"}
        for entry in form.get("deployments", ())
    }
    return {**form, "deployments": deployments}


def _in_place_form(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a template that Serve applies to running replicas."""
    rolled = restart_form(template)
    listed = {entry["name"]: entry for entry in rolled["deployments"]}
    deployments = []
    for entry in template.get("deployments", ()):
        kept = {key: value for key, value in entry.items() if key not in listed.get(entry["name"], {}) or key == "name"}
        scaling = kept.pop("autoscaling_config", None) or {}
        scaling = {key: value for key, value in scaling.items() if key != "policy"}
        deployments.append(kept | ({"autoscaling_config": scaling} if scaling else {}))
    logging = {key: value for key, value in template.items() if key == "logging_config"}
    return {**logging, "deployments": [entry for entry in deployments if len(entry) > 1]}


def _counts(deployments: tuple[DesiredDeployment, ...]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for deployment in deployments:
        match deployment.scale:
            case FixedScale(replicas=replicas):
                counts[deployment.name] = {"num_replicas": replicas}
            case AutoScale() as scale:
                first = {} if scale.initial_replicas is None else {"initial_replicas": scale.initial_replicas}
                bounds = {"min_replicas": scale.min_replicas, "max_replicas": scale.max_replicas, **first}
                counts[deployment.name] = bounds
            case None:
                counts[deployment.name] = {}
    return counts


def _changes(before: Any, after: Any, path: Path, consequence: Consequence) -> Iterator[FieldChange]:
    """Yield the smallest values that differ; lists of one length entry by entry, others whole."""
    if before == after and type(before) is type(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _changes(before.get(key, _ABSENT), after.get(key, _ABSENT), (*path, key), consequence)
        return
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(old, new, (*path, index), consequence)
        return
    yield FieldChange(
        path=_spelt(path), consequence=consequence, before=_shown(before, path), after=_shown(after, path)
    )


def _spelt(path: Path) -> str:
    """Return a path as people write it, such as `rollout.steps[0].setWeight`; deployments stand by their names."""
    text = ""
    for place, step in enumerate(path):
        is_name = isinstance(step, int) or (place > 1 and path[1] == "deployments" and place == 2)
        text += f"[{step}]" if is_name else f".{step}"
    return text.removeprefix(".")


def _shown(value: Any, path: Path) -> str | None:
    if value is _ABSENT:
        return None
    text = json.dumps(masked(value, path), sort_keys=True, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
