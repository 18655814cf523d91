"""The promise itself, under load: nobody notices anything that Heliostat does."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.e2e.foreseen import foresee
from tests.e2e.load import Load, Record, binomial_interval, executed_twice, sending
from tests.e2e.project import Spec, pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for
from tests.e2e.watch import Watch

pytestmark = pytest.mark.ray

REPLICAS, SURGE = 3, 1
RATE = 110
WEIGHTS = (10, 25, 50, 75)
MOST_IN_HAND = 3
"""Short requests that one HAProxy holds at a moment at this rate: each takes milliseconds."""

SAMPLE = 400
"""Answers per step that the observed share is judged by."""


@dataclass
class Story:
    """A service under load, told step by step; every claim is checked at the end."""

    stage: Stage
    load: Load
    watch: Watch
    spec: Spec
    stream_seconds: float
    failing: set[str] = field(default_factory=set)

    def rollout(self, revision: str) -> None:
        """Roll a revision out; at each of its steps the observed share is what the step says."""
        daemon = self.stage.daemon
        stable = daemon.status("chat")["stable"]
        self.load.stream(self.stream_seconds)
        self.spec = replace(self.spec, revision=revision)
        self.stage.project.push(self.spec)
        for percent in WEIGHTS:
            self._pausing_at(stable, percent)
            since = time.time()
            self.load.stream(self.stream_seconds)
            seen = wait_for(
                lambda since=since: self.load.revisions(since, SAMPLE),
                60,
                f"{SAMPLE} answers at {percent}%",
                interval=0.5,
            )
            low, high = binomial_interval(seen.total(), percent / 100)
            assert low <= seen[revision] <= high, f"{seen} at {percent}%"
            daemon.act("chat", "promote")
        self._stable_is_new(stable)

    def _pausing_at(self, stable: str, percent: int) -> dict[str, Any]:
        daemon = self.stage.daemon

        def reached() -> dict[str, Any]:
            found = daemon.status("chat")
            weights = {stable: 100 - percent, found.get("candidate"): percent}
            return found if found.get("health") == "Paused" and found["weights"] == weights else {}

        within = 60 + 4 * self.stream_seconds
        return wait_for(reached, within, f"pausing at {percent}%", shows=lambda: daemon.story("chat"))

    def _stable_is_new(self, stable: str) -> None:
        daemon = self.stage.daemon
        wait_for(
            lambda: (found := daemon.status("chat")).get("stable") not in (None, stable) and not found["candidate"],
            60 + 4 * self.stream_seconds,
            "promoted",
            shows=lambda: daemon.story("chat"),
        )

    def rollback(self, revision: str) -> None:
        """Push a revision that cannot start, and see it come back."""
        daemon = self.stage.daemon
        stable = daemon.status("chat")["stable"]
        self.load.stream(self.stream_seconds)
        self.stage.project.push(replace(self.spec, revision=revision, args={"fail_start": "broken on purpose"}))
        status = daemon.wait_condition("chat", "Quarantined", "True", 120 + 2 * self.stream_seconds)
        assert (status["stable"], status["weights"]) == (stable, {stable: 100})
        self.failing.update(status["quarantined"])
        self.stage.project.push(self.spec)

    def scale(self, replicas: int) -> None:
        """Change the count only."""
        self.load.stream(self.stream_seconds)
        self.stage.project.push(replace(self.spec, replicas=replicas))
        within = 60 + 2 * self.stream_seconds
        wait_for(lambda: self.stage.replicas().of("chat", "Echo") == replicas, within, f"{replicas} replicas")
        self.stage.daemon.wait("chat", within, "in step with Git", sync="Synced")
        assert self.stage.daemon.status("chat")["candidate"] is None

    def restart_daemon(self) -> None:
        """Kill the daemon without a warning, wait a little, and start it again."""
        self.load.stream(self.stream_seconds)
        haproxy = self.stage.daemon.haproxy()
        self.stage.daemon.kill()
        asked = len(self.load.requests())
        wait_for(lambda: len(self.load.requests()) > asked + RATE, 30, "requests go on without the daemon")
        self.stage.daemon.start()
        assert self.stage.daemon.haproxy() == haproxy

    def kill_haproxy(self) -> float:
        """Kill HAProxy and wait for the next one; return when. What it held dies with it, nothing else."""
        daemon = self.stage.daemon
        pid = daemon.haproxy()
        assert pid is not None
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: daemon.haproxy() not in (None, pid), 20, "another HAProxy serves")
        asked = len(self.load.requests())
        wait_for(lambda: len(self.load.requests()) > asked + RATE, 30, "requests go on")
        self.load.stream(self.stream_seconds)
        return killed


def held_at(records: list[Record], moment: float) -> list[Record]:
    """Return the requests that were under way at a moment: their connections ended with the process.

    The kernel ends a process a little after it was told to.
    """
    return [record for record in records if record.start <= moment + 0.05 and record.end >= moment]


def check(story: Story, killed: list[float]) -> Counter[str]:
    """Nothing failed but what a killed HAProxy held in its hands, and nothing was executed twice.

    Return how many that HAProxy held, by kind.
    """
    load, watch, daemon = story.load, story.watch, story.stage.daemon
    held = [record for moment in killed for record in held_at(load.failures(), moment)]
    lost = [record for record in load.failures() if record not in held]
    assert lost == [], watch.around(lost)
    assert executed_twice(story.stage.count_file) == []
    answered = {record.id for record in load.records("post") if not record.failed}
    executed = {line.split()[0] for line in story.stage.count_file.read_text().splitlines()}
    assert answered <= executed
    assert watch.peak("chat", failing=frozenset(story.failing)) <= REPLICAS + SURGE
    assert watch.jumps(needed=REPLICAS) == []
    assert daemon.reloads() == 0
    took = max(record.end for record in load.requests()) - min(record.start for record in load.requests())
    assert len(load.requests()) / took >= 100
    counts = Counter("stream" if record.kind == "stream" else "request" for record in held)
    print(f"{len(load.requests())} requests, {len(load.records('stream'))} streams, none failed; held: {dict(counts)}")
    assert counts["request"] <= MOST_IN_HAND * len(killed)
    return counts


def tell(stage: Stage, *, stream_seconds: float) -> Story:
    steps = [step for percent in WEIGHTS for step in (weight(percent), pause())]
    spec = stage.spec(replicas=REPLICAS, steps=steps, extra={"maxRequestDuration": "5m"})
    stage.deploy(spec)
    return Story(stage, stage.load(rate=RATE), stage.watch(), spec, stream_seconds)


def test_nobody_notices_a_rollout_a_rollback_and_a_killed_daemon(stage: Stage) -> None:
    story = tell(stage, stream_seconds=6)
    with sending(story.load), story.watch:
        story.rollout("v2")
        story.restart_daemon()
        story.rollback("v3")
    check(story, [])


@pytest.mark.slow
def test_a_rollout_goes_as_the_daemon_predicted(stage: Stage) -> None:
    story = tell(stage, stream_seconds=2)
    with sending(story.load), story.watch:
        foreseen = foresee(stage, replace(story.spec, revision="v2"), time.time())
        story.rollout("v2")
        stage.wait_only("chat", stage.daemon.status("chat")["stable"], 90)
        foreseen.check(stage, story.watch)
    check(story, [])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_minute_long_streams_survive_everything_that_heliostat_does(stage: Stage) -> None:
    """A HAProxy killed with SIGKILL takes the connections that it holds with it, and nothing else."""
    story = tell(stage, stream_seconds=60)
    with sending(story.load), story.watch:
        story.rollout("v2")
        story.rollback("v3")
        story.scale(REPLICAS - 1)
        story.restart_daemon()
        story.scale(REPLICAS)
        killed = story.kill_haproxy()
    held = check(story, [killed])
    streams = story.load.records("stream")
    assert held["stream"] == len([stream for stream in streams if stream.start <= killed <= stream.end])
    whole = [stream for stream in streams if not stream.failed]
    # What was opened after the rollout may still be open when HAProxy is killed: four of ten.
    assert len(whole) >= len(streams) - 4
    assert all(stream.end - stream.start >= 59 for stream in whole)


@pytest.mark.slow
def test_a_killed_haproxy_costs_nothing_but_the_connections_it_held(stage: Stage) -> None:
    story = tell(stage, stream_seconds=2)
    with sending(story.load), story.watch:
        killed = [story.kill_haproxy() for _ in range(5)]
    check(story, killed)
