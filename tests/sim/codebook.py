"""What the code of a simulated application does: chosen by import path and args, as in the echo application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one revision's code builds, starts and runs.

    `deployments` are the code's own, with the count each starts at when the config does not list it; the first
    one is the ingress. Texts are failures: empty means that it does not fail.
    """

    deployments: tuple[tuple[str, int], ...] = (("Echo", 1),)
    build_time: timedelta = timedelta(seconds=4)
    start_time: timedelta = timedelta(seconds=2)
    fail_build: str = ""
    fail_start: str = ""
    never_schedules: bool = False
    sick_after: timedelta | None = None
    """Each replica fails its health check this long after it started: an unhealthy or crash-looping revision."""
    cpus: float = 0.1
    error_rate: float = 0.0
    """The share of its requests that it answers with a 5xx though it is healthy."""
    latency: timedelta = timedelta(milliseconds=20)
    tail_share: float = 0.0
    """The share of its requests that take `tail_latency` instead."""
    tail_latency: timedelta = timedelta(seconds=2)

    @property
    def ingress(self) -> str:
        """Return the deployment that takes HTTP requests."""
        return self.deployments[0][0]


ARGS_SECONDS = {"build_seconds": "build_time", "start_seconds": "start_time", "sick_seconds": "sick_after"}
ARGS_PLAIN = ("fail_build", "fail_start", "never_schedules", "error_rate", "tail_share")


@dataclass(kw_only=True)
class CodeBook:
    """All code that a simulation knows. `programs` are by import path; args of an application refine them.

    args: `build_seconds`, `start_seconds`, `sick_seconds`, `fail_build`, `fail_start`, `never_schedules`,
    `error_rate`, `tail_share`, `with_backend`, and `deployments` (counts by name; `ingress` names the ingress).
    """

    programs: dict[str, Behaviour] = field(default_factory=dict)
    default: Behaviour = Behaviour()
    sick: set[str] = field(default_factory=set)
    """Applications whose replicas fail their health checks for as long as they are named here."""

    withdrawn: set[str] = field(default_factory=set)
    """Versions (`args.version`) that cannot be built any more: what they need is gone."""

    homeless: set[str] = field(default_factory=set)
    """Versions that no node takes any more."""
    worsened: dict[str, float] = field(default_factory=dict)
    """Versions that fail this share of their requests from now on, healthy as they are."""

    def ingress(self, config: Mapping[str, Any]) -> str:
        """Return the deployment of an application that takes its requests."""
        args = config.get("args") or {}
        counts = args.get("deployments")
        if counts is None:
            return self.programs.get(config["import_path"], self.default).ingress
        return str(args["ingress"]) if args.get("ingress") in counts else min(counts)

    def behaviour(self, config: Mapping[str, Any]) -> Behaviour:
        """Return what the code of an application does."""
        args = config.get("args") or {}
        chosen: dict[str, Any] = {name: args[name] for name in ARGS_PLAIN if name in args}
        chosen |= {
            field_name: timedelta(seconds=args[name]) for name, field_name in ARGS_SECONDS.items() if name in args
        }
        if args.get("version") in self.homeless:
            chosen["never_schedules"] = True
        if args.get("version") in self.worsened:
            chosen["error_rate"] = self.worsened[args["version"]]
        if args.get("version") in self.withdrawn:
            chosen["fail_build"] = "ImagePullFailed: no such image"
        base = self.programs.get(config["import_path"], self.default)
        if args.get("with_backend"):
            base = replace(base, deployments=(*base.deployments, ("Backend", 2)))
        if "deployments" in args:
            counts = args["deployments"]
            ingress = args.get("ingress", min(counts))
            chosen["deployments"] = tuple(sorted(counts.items(), key=lambda entry: (entry[0] != ingress, entry[0])))
        return replace(base, **chosen) if chosen else base
