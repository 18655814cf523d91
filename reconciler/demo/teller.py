"""What every story of the demo does: chapters end with a row of the table, and what differed is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from reconciler.demo.screen import Names, Screen
from reconciler.demo.traffic import Load, Tally
from reconciler.demo.witness import Sight, StoryBroke, Witness

ANSWERS_WITHIN = timedelta(seconds=15)
SEEN_WITHIN = timedelta(seconds=30)

MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the table at the end. `reaction` is from the commit until Ray had the new application."""

    text: str
    seconds: float
    tally: Tally
    reaction: timedelta | None = None


class Tale(Protocol):
    """A story as the stage needs it."""

    differences: list[str]

    async def play(self) -> None:
        """Play everything. Raises StoryBroke where the story cannot go on."""

    def look_back(self) -> None:
        """Check what has to hold over the whole story."""

    def table(self, total: timedelta) -> str:
        """Return the figures."""

    @property
    def moral(self) -> str:
        """Return what a story that went as told has shown, in one line."""


@dataclass(kw_only=True)
class Teller:
    """Ends chapters. `stages` are those that were played, `differences` what was not as told."""

    witness: Witness
    load: Load
    screen: Screen
    names: Names
    start_load: Callable[[], None]
    """Called when the first version answers."""
    stages: list[Stage] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def sight(self) -> Sight:
        """Return the sample service as last seen."""
        if self.witness.sight is None:
            raise StoryBroke("the daemon has not shown the service")
        return self.witness.sight

    async def recognised(self, version: str, *, known: frozenset[str]) -> str:
        """Return the revision that the daemon makes of the newest commit, and give it a name."""
        before = self.witness.sight.target if self.witness.sight else None
        sight = await self.witness.until(
            lambda sight: sight.target not in {None, before} and sight.target not in known,
            within=SEEN_WITHIN,
            what=f"the daemon sees the commit of {version}",
        )
        assert sight.target is not None
        self.names.known[sight.target] = version
        self.screen.say(f"Heliostat has seen the commit: {version} is revision {sight.target}.")
        return sight.target

    async def answered(self, version: str) -> None:
        """Wait for a first answer of a version."""
        await self.witness.until(
            lambda sight: self.load.tally.answers[f"Hello from {version}"] > 0,
            within=ANSWERS_WITHIN,
            what=f"{version} answers",
        )

    def reaction(self, revision: str, pushed: datetime | None) -> timedelta | None:
        """Return how long after a commit Ray had its application."""
        deployed = self.witness.deployed_at.get(revision)
        return deployed - pushed if deployed and pushed else None

    def end_stage(self, text: str, began: float, before: Tally, reaction: timedelta | None = None) -> None:
        """Note a row of the table and tell it."""
        spent = time.monotonic() - began
        tally = self.load.tally.since(before)
        self.stages.append(Stage(text=text, seconds=spent, tally=tally, reaction=reaction))
        self.screen.say(f"{text}: {spent:.1f} s, {tally.answered} requests answered, {tally.failed} failed.")

    def check_executions(self) -> None:
        """Hold the service's own count against what was answered."""
        executions = self.load.executions()
        if executions.twice:
            self.differences.append(f"executed twice: {some(executions.twice)}")
        if executions.lost:
            self.differences.append(f"answered, but never executed: {some(executions.lost)}")
        if not executions.answered:
            self.differences.append("no POST was answered")

    def check_answers(self, greetings: frozenset[str]) -> None:
        """Hold what was answered against what there was to answer."""
        missing = sorted(greetings - set(self.load.tally.answers))
        strange = sorted(set(self.load.tally.answers) - greetings)
        if missing:
            self.differences.append(f"nobody was ever answered {', '.join(map(repr, missing))}")
        if strange:
            self.differences.append(f"unexpected answers: {', '.join(map(repr, strange))}")


def some(guests: Sequence[str]) -> str:
    """Name a few of many."""
    return ", ".join(guests[:MOST_NAMED]) + (f" and {len(guests) - MOST_NAMED} more" if guests[MOST_NAMED:] else "")


def is_settled(sight: Sight) -> bool:
    """Return whether all that Git wants is there and ready."""
    return sight.health == "Healthy" and sight.sync == "Synced" and sight.candidate is None
