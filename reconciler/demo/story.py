"""The story: version 1 goes live, version 2 takes over step by step, version 3 is broken and comes back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.demo.repository import (
    BROKEN,
    MISSING_FILE,
    SECOND,
    SERVICE,
    SURGE,
    TARGET,
    SampleRepository,
)
from reconciler.demo.screen import Names, Screen
from reconciler.demo.traffic import Load, Tally
from reconciler.demo.witness import Sight, StoryBroke, Witness

FIRST_WITHIN = timedelta(seconds=120)
ROLLOUT_WITHIN = timedelta(seconds=180)
ROLLBACK_WITHIN = timedelta(seconds=120)
"""Several times what a machine with two cores takes."""

ANSWERS_WITHIN = timedelta(seconds=15)

BUDGET = TARGET + SURGE
MOST_NAMED = 5

FRAME = re.compile(r"  File ")
FOREIGN_FRAME = re.compile(r"/site-packages/|/lib/python3")
PACKAGE_FOLDER = re.compile(r'(?<=")/[^"]*/_ray_pkg_[0-9a-f]+/')
"""Where Ray unpacks the commit's code on a node."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the table at the end. `reaction` is from the commit until Ray had the new application."""

    text: str
    seconds: float
    tally: Tally
    reaction: timedelta | None = None


@dataclass(kw_only=True)
class Story:
    """Plays the chapters in turn. `stages` are those that were played, `differences` what was not as told."""

    repository: SampleRepository
    witness: Witness
    load: Load
    screen: Screen
    names: Names
    start_load: Callable[[], None]
    stages: list[Stage] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    async def play(self) -> None:
        """Play everything. Raises StoryBroke where the story cannot go on."""
        await self._first_version()
        await self._second_version()
        await self._broken_version()

    async def _first_version(self) -> None:
        self.screen.title(f"1. A service is pushed: v1 with {TARGET} replicas")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.add_service()
        self.screen.say(f"Committed services/{SERVICE}: a spec of 30 lines and its code beside it.")
        revision = await self._recognised("v1", known=frozenset())
        await self.witness.until(
            lambda sight: sight.stable == revision and sight.weights == {revision: 100} and is_settled(sight),
            within=FIRST_WITHIN,
            what="v1 goes live",
        )
        self._end_stage("v1 deployed", began, before, self._reaction(revision, pushed))
        self.start_load()
        self.screen.say(f"v1 ({revision}) is live. From now on every request is counted.")
        await self._answered("v1")

    async def _second_version(self) -> None:
        stable = self._sight.stable
        self.screen.title("2. A change is pushed: v2 takes over a few percent at a time")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.push(SECOND)
        self.screen.say("Committed a new VERSION in app.py. v2 starts beside v1, in its own Serve application.")
        revision = await self._recognised(SECOND.version, known=frozenset(filter(None, (stable,))))
        await self._carries(revision, 20)
        self._end_stage("v2 starts", began, before, self._reaction(revision, pushed))
        await self._through("v2 at 20%", revision, 20.01)
        await self._through("v2 to 50%", revision, 50)
        await self._through("v2 at 50%", revision, 50.01)
        await self._through("v2 to 100%", revision, 100)
        await self._cleared(revision, "v1 retires")

    async def _through(self, text: str, revision: str, percent: float) -> None:
        """Play one stage that ends when a revision carries `percent`."""
        began, before = time.monotonic(), self.load.tally.copy()
        await self._carries(revision, percent)
        self._end_stage(text, began, before)

    async def _carries(self, revision: str, percent: float) -> None:
        await self.witness.until(
            lambda sight: sight.weights.get(revision, 0) >= percent and (percent < 100 or sight.stable == revision),
            within=ROLLOUT_WITHIN,
            what=f"{self.names.of(revision)} gets {percent:.0f}%",
        )

    async def _cleared(self, revision: str, what: str) -> None:
        began, before = time.monotonic(), self.load.tally.copy()
        await self.witness.until(
            lambda sight: sight.revisions == {revision} and is_settled(sight), within=ROLLOUT_WITHIN, what=what
        )
        self._end_stage(what, began, before)

    async def _broken_version(self) -> None:
        stable = self._sight.stable
        assert stable is not None
        self.screen.title("3. A mistake is pushed: v3 cannot start")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.push(BROKEN)
        self.screen.say(f"Committed a v3 whose constructor opens {MISSING_FILE}, which nobody committed.")
        revision = await self._recognised(BROKEN.version, known=frozenset({stable}))
        sight = await self.witness.until(
            lambda sight: revision in sight.quarantined and sight.candidate is None,
            within=ROLLBACK_WITHIN,
            what="v3 is rolled back",
        )
        self._end_stage("v3 rolled back", began, before, self._reaction(revision, pushed))
        self.screen.say(f"v3 ({revision}) is quarantined; v2 never stopped serving. Ray's own words:")
        self.screen.quote(telling_lines(sight.quarantine))
        if MISSING_FILE not in sight.quarantine:
            self.differences.append(f"the quarantine's message does not name {MISSING_FILE}: {sight.quarantine[-300:]}")
        await self._given_up(stable, "v3 cleared away")

    async def _given_up(self, stable: str, what: str) -> None:
        began, before = time.monotonic(), self.load.tally.copy()
        sight = await self.witness.until(lambda sight: sight.revisions == {stable}, within=ROLLBACK_WITHIN, what=what)
        self._end_stage(what, began, before)
        if sight.stable != stable or sight.weights != {stable: 100}:
            self.differences.append(f"after the rollback v2 does not have all requests: {dict(sight.weights)}")

    @property
    def _sight(self) -> Sight:
        if self.witness.sight is None:
            raise StoryBroke("the daemon has not shown the service")
        return self.witness.sight

    async def _recognised(self, version: str, *, known: frozenset[str]) -> str:
        """Return the revision that the daemon makes of the newest commit, and give it a name."""
        before = self.witness.sight.target if self.witness.sight else None
        sight = await self.witness.until(
            lambda sight: sight.target not in {None, before} and sight.target not in known,
            within=timedelta(seconds=30),
            what=f"the daemon sees the commit of {version}",
        )
        assert sight.target is not None
        self.names.known[sight.target] = version
        self.screen.say(f"Heliostat has seen the commit: {version} is revision {sight.target}.")
        return sight.target

    async def _answered(self, version: str) -> None:
        """Wait for a first answer of a version."""
        await self.witness.until(
            lambda sight: self.load.tally.answers[f"Hello from {version}"] > 0,
            within=ANSWERS_WITHIN,
            what=f"{version} answers",
        )

    def _reaction(self, revision: str, pushed: datetime | None) -> timedelta | None:
        deployed = self.witness.deployed_at.get(revision)
        return deployed - pushed if deployed and pushed else None

    def _end_stage(self, text: str, began: float, before: Tally, reaction: timedelta | None = None) -> None:
        spent = time.monotonic() - began
        tally = self.load.tally.since(before)
        self.stages.append(Stage(text=text, seconds=spent, tally=tally, reaction=reaction))
        self.screen.say(f"{text}: {spent:.1f} s, {tally.answered} requests answered, {tally.failed} failed.")

    def look_back(self) -> None:
        """Check what has to hold over the whole story."""
        tally = self.load.tally
        greetings = {f"Hello from {version}" for version in ("v1", SECOND.version)}
        if tally.failed:
            self.differences.append(f"{tally.failed} of {tally.sent} requests failed: {'; '.join(tally.examples)}")
        executions = self.load.executions()
        if executions.twice:
            self.differences.append(f"executed twice: {some(executions.twice)}")
        if executions.lost:
            self.differences.append(f"answered, but never executed: {some(executions.lost)}")
        if not executions.answered:
            self.differences.append("no POST was answered")
        missing = sorted(greetings - set(tally.answers))
        strange = sorted(set(tally.answers) - greetings)
        if missing:
            self.differences.append(f"nobody was ever answered {', '.join(map(repr, missing))}")
        if strange:
            self.differences.append(f"unexpected answers: {', '.join(map(repr, strange))}")
        if self.witness.peak > BUDGET:
            states = self.witness.peak_states
            self.differences.append(f"{self.witness.peak} replicas at once ({states}), the budget is {BUDGET}")


def some(guests: Sequence[str]) -> str:
    """Name a few of many."""
    return ", ".join(guests[:MOST_NAMED]) + (f" and {len(guests) - MOST_NAMED} more" if guests[MOST_NAMED:] else "")


def is_settled(sight: Sight) -> bool:
    """Return whether all that Git wants is there and ready."""
    return sight.health == "Healthy" and sight.sync == "Synced" and sight.candidate is None


def telling_lines(message: str) -> str:
    """Return the last traceback without the frames of Ray and Python: the lines a programmer looks for."""
    lines = message.splitlines()
    starts = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    kept: list[str] = []
    is_ours = True
    for line in lines[starts[-1] if starts else 0 :]:
        if FRAME.match(line):
            is_ours = not FOREIGN_FRAME.search(line)
        elif not line.startswith("    "):
            is_ours = True
        if is_ours and line.strip("~^ "):
            kept.append(PACKAGE_FOLDER.sub("", line))
    return "\n".join(kept)
