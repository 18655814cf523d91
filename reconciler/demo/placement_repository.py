"""The Git repository of the story about zones and nodes: two services, and a policy for the cluster."""

from __future__ import annotations

from datetime import datetime

from reconciler.demo.repository import APP, POLICY, SPEC, SPEC_PATH, SampleRepository, sample

OTHER = "translator"
OTHER_SPEC = f"{SPEC_PATH}/{OTHER}/service.yaml"

GREETERS, TRANSLATORS = 6, 3
"""Replicas of the two services; a test holds their specs to them."""


class PlacementRepository(SampleRepository):
    """The sample repository with its services spread over zones."""

    def add_services(self) -> datetime:
        """Commit both services and a policy; return when."""
        self._write(SPEC, sample("spread.yaml"))
        self._write(APP, sample("app.py"))
        self._write(OTHER_SPEC, sample("translator.yaml"))
        self._write(POLICY, sample("cluster.yaml"))
        return self._commit("Add the greeter and the translator, spread over zones")

    def allow_compaction(self) -> datetime:
        """Commit that compaction is carried out; return when."""
        self._write(POLICY, sample("cluster.yaml").replace("enabled: false", "enabled: true"))
        return self._commit("Use as few nodes as will do")
