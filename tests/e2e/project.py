"""A Git repository of specs and code, written and committed as a team would."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.origin import Origin
from tests.ray_cluster import ECHO

API = "heliostat.dev/v1alpha1"

Steps = Sequence[Mapping[str, Any]]


def weight(percent: int) -> dict[str, Any]:
    """Return a `setWeight` step."""
    return {"setWeight": percent}


def pause(seconds: float | None = None) -> dict[str, Any]:
    """Return a pause step; without seconds, until `promote`."""
    return {"pause": {} if seconds is None else {"duration": f"{round(seconds * 1000)}ms"}}


QUICK: Steps = (weight(50), pause(1))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One service on the echo application; `revision` is what its answers carry."""

    name: str = "chat"
    revision: str = "v1"
    import_path: str = "echo:build"
    replicas: int | None = 2
    args: Mapping[str, Any] = field(default_factory=dict)
    steps: Steps = QUICK
    rollout: Mapping[str, Any] = field(default_factory=dict)
    deployments: Sequence[Mapping[str, Any]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the Service document."""
        listed = self.deployments
        if listed is None:
            listed = [] if self.replicas is None else [{"name": "Echo", "num_replicas": self.replicas}]
        runtime: dict[str, Any] = {"working_dir": "."}
        if self.environment:
            runtime["env_vars"] = dict(self.environment)
        if self.secrets:
            runtime["envFrom"] = dict(self.secrets)
        rollout = {"steps": list(self.steps), "minReady": "1s", "scaleDownDelay": "1s", "maxSurge": 1, **self.rollout}
        return {
            "apiVersion": API,
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {
                "application": {
                    "import_path": self.import_path,
                    "args": {"revision": self.revision, **self.args},
                    "runtime_env": runtime,
                    "deployments": [dict(deployment) for deployment in listed],
                },
                "rollout": rollout,
                # Serve takes this long to let go of a replica that never started.
                "maxRequestDuration": "40s",
                **self.extra,
            },
        }


def policy(**spec: Any) -> dict[str, Any]:
    """Return the ClusterPolicy document."""
    return {"apiVersion": API, "kind": "ClusterPolicy", "metadata": {"name": "default"}, "spec": spec}


class Project:
    """The team's repository: one spec file per service, the code beside them."""

    def __init__(self, folder: Path) -> None:
        self.origin = Origin(folder)
        self.committed_at = 0.0

    @property
    def folder(self) -> Path:
        """Where the repository is."""
        return self.origin.folder

    def push(
        self, *specs: Spec, others: Mapping[str, str] | None = None, cluster: Mapping[str, Any] | None = None
    ) -> str:
        """Commit exactly these services (and `others`, files as they are); return the commit's id."""
        files: dict[str, str | bytes] = {"echo.py": ECHO.read_bytes(), **(others or {})}
        for spec in specs:
            files[f"{spec.name}.yaml"] = yaml.safe_dump(spec.document(), sort_keys=False)
        if cluster is not None:
            files["cluster.yaml"] = yaml.safe_dump(dict(cluster), sort_keys=False)
        sha = self.origin.commit(files)
        self.committed_at = time.time()
        return sha
