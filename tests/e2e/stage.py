"""Everything that an end-to-end test plays with, in one place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from reconciler.embedded import EmbeddedCluster
from tests.e2e.daemon import Daemon
from tests.e2e.load import Load
from tests.e2e.project import Project, Spec
from tests.e2e.tcp_proxy import Wire
from tests.e2e.waiting import wait_for
from tests.e2e.watch import Replicas, Watch, read_replicas


class Stage:
    """A repository, a daemon (not started yet) and the cluster."""

    def __init__(
        self, folder: Path, cluster: EmbeddedCluster, *, wire: Wire | None = None, flags: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self._wire = wire
        self.project = Project(folder / "project")
        ray = wire.url if wire else cluster.dashboard_url
        self.daemon = Daemon(folder, self.project.folder, ray, flags=flags)
        self.count_file = folder / "executed.txt"
        self.count_file.touch()

    @property
    def wire(self) -> Wire:
        """What the daemon reaches Ray through."""
        assert self._wire is not None
        return self._wire

    def spec(self, revision: str = "v1", **fields: Any) -> Spec:
        """Return a service whose POSTs are recorded in this stage's file."""
        environment = {"ECHO_COUNT_FILE": str(self.count_file), **fields.pop("environment", {})}
        return Spec(revision=revision, environment=environment, **fields)

    def deploy(self, *specs: Spec, within: float = 90, **others: Any) -> None:
        """Push services and wait until all of them are settled; start the daemon when it does not run."""
        sha = self.project.push(*specs, **others)
        if not self.daemon.is_running():
            self.daemon.start()
        self.daemon.wait_commit(sha)
        for spec in specs:
            self.daemon.wait_settled(spec.name, spec.revision, within)

    def load(self, **settings: Any) -> Load:
        """Return a load on the gateway, not started yet."""
        return Load(self.folder, self.daemon.gateway, **settings)

    def watch(self) -> Watch:
        """Return observers of Ray and HAProxy, not started yet."""
        return Watch(self.daemon, self.cluster.dashboard_url)

    def serve(self) -> Mapping[str, Any]:
        """Return what Serve shows."""
        url = f"{self.cluster.dashboard_url}/api/serve/applications/"
        found: Mapping[str, Any] = httpx.get(url, timeout=10, trust_env=False).json()
        return found

    def put(self, document: Mapping[str, Any]) -> None:
        """Put a Serve document as somebody else would."""
        url = f"{self.cluster.dashboard_url}/api/serve/applications/"
        httpx.put(url, json=document, timeout=30, trust_env=False).raise_for_status()

    def replicas(self) -> Replicas:
        """Return the replicas that Ray shows now."""
        return read_replicas(self.serve(), time.time())

    def cells(self, service: str) -> list[str]:
        """Return the names of a service's applications in Serve."""
        return sorted(name for name in self.serve()["applications"] if name.split(".")[0] == service)

    def wait_gone(self, service: str, within: float = 60) -> None:
        """Wait until Serve shows nothing of a service."""
        wait_for(lambda: not self.cells(service), within, f"{service} is gone", shows=lambda: self.cells(service))

    def wait_only(self, service: str, revision: str, within: float = 60) -> None:
        """Wait until Serve shows nothing of a service but this revision."""
        wait_for(
            lambda: [name.split(".")[1] for name in self.cells(service)] == [revision],
            within,
            f"only {revision} of {service} is left",
            shows=lambda: self.daemon.story(service),
        )

    def close(self) -> None:
        """End the daemon and its HAProxy."""
        self.daemon.close()
