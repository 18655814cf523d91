"""One deployment of a simulated Serve: replicas that start, serve, fail and drain in virtual time.

The rules are those of Ray 2.60's `deployment_state.py`, as far as Heliostat can see them from outside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from specs.observed import Node
from tests.sim.codebook import Behaviour

LONG_AGO = timedelta(seconds=30)
"""Serve complains about a replica that waits longer than this for a node."""

MOST_START_FAILURES = 20
FAILURES_PER_REPLICA = 3

Numbering = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long things take in the simulation."""

    drain: timedelta = timedelta(seconds=30)
    """How long a stopping replica keeps serving and holds its resources."""
    autoscale_delay: timedelta = timedelta(seconds=10)
    """How long demand must differ from the target before the autoscaler follows it."""


@dataclass(kw_only=True, eq=False)
class SimReplica:
    """One replica. `due` is when its start or its stop ends; None while it waits for a node."""

    id: str
    born: datetime
    state: str = "STARTING"
    node: str | None = None
    ip: str = ""
    port: int = 0
    due: datetime | None = None
    running_since: datetime | None = None

    @property
    def is_counted(self) -> bool:
        """Return whether Serve counts it against the target: stopping and migrating ones it does not."""
        return self.state in ("STARTING", "RUNNING")

    @property
    def is_serving(self) -> bool:
        """Return whether it takes requests."""
        return self.state in ("RUNNING", "PENDING_MIGRATION")

    @property
    def holds_something(self) -> bool:
        """Return whether it counts as live: one that stops and never had a node holds nothing."""
        return self.state != "STOPPING" or self.node is not None


@dataclass(kw_only=True, eq=False)
class SimDeployment:
    """One deployment of one application."""

    name: str
    application: str
    behaviour: Behaviour
    timing: Timing
    options: dict[str, Any]
    """The config's entry for it; {} when the config does not list it."""
    code_count: int
    numbering: Numbering
    dice: random.Random
    target: int = 0
    replicas: list[SimReplica] = field(default_factory=list)
    status: str = "UPDATING"
    trigger: str = "CONFIG_UPDATE_STARTED"
    message: str = ""
    failures: int = 0
    has_started: bool = False
    is_deleting: bool = False
    wanted_since: datetime | None = None

    @property
    def bounds(self) -> Mapping[str, Any] | None:
        """Return the autoscaling config, None when the size is fixed."""
        config = self.options.get("autoscaling_config")
        if self.options.get("num_replicas") == "auto":
            return {"min_replicas": 1, "max_replicas": 100, **(config or {})}
        return config

    @property
    def demand(self) -> Mapping[str, float]:
        """Return the resources that one replica takes."""
        wanted = self.options.get("ray_actor_options") or {}
        cpus = wanted.get("num_cpus")
        return {"CPU": self.behaviour.cpus if cpus is None else cpus, "GPU": wanted.get("num_gpus") or 0.0}

    @property
    def is_terminal(self) -> bool:
        """Return whether Serve gave up starting replicas until somebody changes something."""
        threshold = min(MOST_START_FAILURES, self.target * FAILURES_PER_REPLICA)
        return not self.has_started and 0 < threshold <= self.failures

    @property
    def is_settled(self) -> bool:
        """Return whether time alone changes nothing here."""
        moving = any(replica.state != "RUNNING" for replica in self.replicas)
        return not moving and not self.is_deleting and self.status == "HEALTHY" and self.behaviour.sick_after is None

    def set_first_target(self) -> None:
        """Choose the target of a new or rebuilt deployment."""
        bounds = self.bounds
        if bounds is not None:
            initial = bounds.get("initial_replicas")
            self.target = bounds.get("min_replicas", 1) if initial is None else initial
        else:
            count = self.options.get("num_replicas")
            self.target = self.code_count if count is None else count

    def configure(self, options: dict[str, Any], now: datetime) -> None:
        """Apply the entry of a new document of the same code. An entry that is the same changes nothing."""
        if options == self.options:
            return
        old, self.options = self.options, options
        if old.get("ray_actor_options") != options.get("ray_actor_options"):
            self.stop_all(now)
        if self.bounds is None:
            # A changed entry puts the count back to what it says, also after the external scaler moved it.
            self._retarget(options.get("num_replicas") or self.code_count, "CONFIG_UPDATE_STARTED")
        else:
            low, high = self.bounds.get("min_replicas", 1), self.bounds.get("max_replicas", 1)
            initial = self.bounds.get("initial_replicas")
            wanted = self.target if initial is None else initial
            self._retarget(max(low, min(high, wanted)), "CONFIG_UPDATE_STARTED")
        self._forget_failures()

    def scale_to(self, count: int) -> None:
        """Follow the external scaler, which leaves the status as it is.

        A deployment that was given up goes on when its new count allows more failures.
        """
        self.target = count

    def autoscale(self, wanted: int | None, now: datetime) -> None:
        """Follow the demand within the bounds, after a delay."""
        if self.bounds is None or wanted is None or self.is_deleting:
            return
        wanted = max(self.bounds.get("min_replicas", 1), min(self.bounds.get("max_replicas", 1), wanted))
        if wanted == self.target:
            self.wanted_since = None
        elif self.wanted_since is None:
            self.wanted_since = now
        elif now - self.wanted_since >= self.timing.autoscale_delay:
            self.wanted_since = None
            self._retarget(wanted, "AUTOSCALING")

    def delete(self, now: datetime) -> None:
        """Stop for good."""
        self.is_deleting, self.status = True, "UPDATING"
        self.target = 0
        self.stop_all(now)

    def stop_all(self, now: datetime) -> None:
        """Stop every replica, each for its drain."""
        for replica in list(self.replicas):
            self._stop(replica, now)

    def tick(self, now: datetime, nodes: Mapping[str, Node], *, sick: bool) -> None:
        """Do what Serve's control loop does once."""
        self._lose_nodes(nodes)
        self._end_stops(now)
        self._end_starts(now)
        if any(replica.state == "RUNNING" for replica in self.replicas):
            self.has_started = True
        self._check_health(now, sick=sick)
        self._leave_draining(nodes, now)
        self._follow_target(now)
        self._judge(now)

    def waiting(self) -> Iterable[SimReplica]:
        """Return the replicas that want a node."""
        return (replica for replica in self.replicas if replica.state == "STARTING" and replica.node is None)

    def _retarget(self, target: int, trigger: str) -> None:
        if target == self.target:
            self.status, self.trigger = "UPDATING", "CONFIG_UPDATE_STARTED"
            return
        direction = "UPSCALING" if target > self.target else "DOWNSCALING"
        self.message = f"{direction.capitalize()} from {self.target} to {target} replicas."
        # A deployment that still updates goes on updating.
        if self.status != "UPDATING":
            self.status, self.trigger = direction, trigger
        self.target = target

    def _forget_failures(self) -> None:
        self.failures, self.has_started = 0, False
        if self.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            self.status, self.trigger, self.message = "UPDATING", "CONFIG_UPDATE_STARTED", ""

    def _stop(self, replica: SimReplica, now: datetime) -> None:
        if replica.state == "STOPPING":
            return
        grace = max(self.timing.drain, timedelta(seconds=self.options.get("graceful_shutdown_timeout_s", 20.0)))
        if replica.is_serving:
            ends = now + self.timing.drain
        elif replica.due is not None:
            # It is asked to stop when its constructor is done.
            ends = min(replica.due, now + grace)
        else:
            # It has no node, so nobody hears the request: Serve waits for the whole grace period.
            ends = now + grace
        replica.state, replica.due = "STOPPING", ends

    def _lose_nodes(self, nodes: Mapping[str, Node]) -> None:
        lost = [r for r in self.replicas if r.node is not None and not nodes[r.node].is_alive]
        for replica in lost:
            self.replicas.remove(replica)
        if any(replica.is_serving for replica in lost):
            self._fail_health("A replica's node died.")

    def _end_stops(self, now: datetime) -> None:
        self.replicas = [r for r in self.replicas if r.state != "STOPPING" or r.due is None or r.due > now]

    def _end_starts(self, now: datetime) -> None:
        for replica in [r for r in self.replicas if r.state == "STARTING" and r.due is not None and r.due <= now]:
            if self.behaviour.fail_start:
                self.replicas.remove(replica)
                self.failures += 1
                self.message = f"A replica failed to start with exception. Error:\n{self.behaviour.fail_start}"
            else:
                replica.state, replica.due, replica.running_since = "RUNNING", None, now

    def _check_health(self, now: datetime, *, sick: bool) -> None:
        after = timedelta(0) if sick else self.behaviour.sick_after
        if after is None:
            return
        ill = [r for r in self.replicas if r.running_since is not None and r.is_serving]
        ill = [r for r in ill if r.running_since is not None and now - r.running_since >= after]
        for replica in ill:
            self.replicas.remove(replica)
        if ill:
            self._fail_health("A replica's health check failed. This deployment will be UNHEALTHY until it recovers.")

    def _fail_health(self, message: str) -> None:
        """While an update is not over, Serve calls it a failed deployment, later an unhealthy one."""
        if self.is_deleting:
            return
        self.status = "DEPLOY_FAILED" if self.status in ("UPDATING", "DEPLOY_FAILED") else "UNHEALTHY"
        self.trigger, self.message = "HEALTH_CHECK_FAILED", message

    def _leave_draining(self, nodes: Mapping[str, Node], now: datetime) -> None:
        for replica in self.replicas:
            if replica.state == "RUNNING" and replica.node is not None and nodes[replica.node].is_draining:
                replica.state = "PENDING_MIGRATION"
        running = sum(1 for r in self.replicas if r.state == "RUNNING")
        migrating = [r for r in self.replicas if r.state == "PENDING_MIGRATION"]
        for replica in migrating[: max(0, running + len(migrating) - self.target)]:
            self._stop(replica, now)

    def _follow_target(self, now: datetime) -> None:
        counted = [r for r in self.replicas if r.is_counted]
        if len(counted) < self.target and not self.is_terminal:
            for _ in range(self.target - len(counted)):
                self.replicas.append(SimReplica(id=f"{self.numbering():08x}", born=now))
        elif len(counted) > self.target:
            # Serve chooses: first who does not run yet, then whom it likes.
            self.dice.shuffle(counted)
            counted.sort(key=lambda r: r.state == "RUNNING")
            for replica in counted[: len(counted) - self.target]:
                self._stop(replica, now)

    def _judge(self, now: datetime) -> None:
        if self.is_deleting:
            return
        if self.is_terminal:
            self.status = "UNHEALTHY" if self.status in ("UPSCALING", "DOWNSCALING") else "DEPLOY_FAILED"
            self.trigger = "REPLICA_STARTUP_FAILED"
            self.message = (
                f"The deployment failed to start {self.failures} times in a row. Error:\n{self.behaviour.fail_start}"
            )
            return
        if any(now - replica.born >= LONG_AGO for replica in self.waiting()):
            self.message = f"Deployment '{self.name}' has replicas that have taken more than 30s to be scheduled."
        if len(self.replicas) == self.target and all(r.state == "RUNNING" for r in self.replicas):
            if self.status != "HEALTHY":
                self.trigger = "CONFIG_UPDATE_COMPLETED"
            self.status, self.message, self.failures = "HEALTHY", "", 0
