"""What a daemon predicted of a change, held to what Ray then showed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.e2e.project import Spec
from tests.e2e.stage import Stage
from tests.e2e.watch import Watch
from tests.origin import git

COURSE = ("RolloutStarted", "CellCreated", "StepEntered", "Promoted", "CellRetired")
"""Kinds of events whose order is a rollout's course."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One service's prediction, and what was there when it was made."""

    service: Mapping[str, Any]
    ids: frozenset[str]
    events: int
    at: float

    def check(self, stage: Stage, watch: Watch) -> None:
        """The peak was no higher, exactly these replicas are gone, and nothing came in another order."""
        name = self.service["name"]
        looks = [look.of(name, "Echo") for look in watch.replicas if look.at >= self.at]
        assert self.service["peak"]["Echo"] >= max(looks), self.service
        assert set(self.service["restarts"]) == self.ids - running(stage, name)
        seen = [event["kind"] for event in stage.daemon.events(name) if event["id"] > self.events]
        predicted = [moment["kind"] for moment in self.service["moments"]]
        assert course(predicted) == course(seen)


def course(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind in COURSE]


def running(stage: Stage, name: str) -> frozenset[str]:
    """Return the ids of a service's replicas."""
    shown = stage.replicas().ids
    return frozenset(
        replica for (application, _), ids in shown.items() if application.split(".")[0] == name for replica in ids
    )


def foresee(stage: Stage, spec: Spec, at: float) -> Foreseen:
    """Propose a change on a branch of its own, as a pull request does, and ask the daemon what it would do."""
    folder = stage.project.folder
    file = folder / f"{spec.name}.yaml"
    git(folder, "checkout", "--quiet", "-B", "proposal")
    file.write_text(yaml.safe_dump(spec.document(), sort_keys=False))
    git(folder, "commit", "--quiet", "--all", "--message", "Propose")
    git(folder, "checkout", "--quiet", "main")
    done = stage.daemon.cli(
        "plan", "--repo", str(folder), "--head", "proposal", "--format", "json", "--server", stage.daemon.server
    )
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout)["prediction"]
    assert prediction["isComplete"]
    (service,) = prediction["services"]
    events = stage.daemon.events(spec.name)
    return Foreseen(service=service, ids=running(stage, spec.name), events=max(event["id"] for event in events), at=at)
