"""The story: version 1 goes live, version 2 takes over step by step, version 3 is broken and comes back."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import timedelta

from reconciler.demo.repository import BROKEN, BUDGET, MISSING_FILE, SECOND, SERVICE, TARGET, SampleRepository
from reconciler.demo.table import render, sums
from reconciler.demo.teller import Teller, is_settled

FIRST_WITHIN = timedelta(seconds=120)
ROLLOUT_WITHIN = timedelta(seconds=180)
ROLLBACK_WITHIN = timedelta(seconds=120)
"""Several times what a machine with two cores takes."""

FRAME = re.compile(r"  File ")
FOREIGN_FRAME = re.compile(r"/site-packages/|/lib/python3")
PACKAGE_FOLDER = re.compile(r'(?<=")/[^"]*/_ray_pkg_[0-9a-f]+/')
"""Where Ray unpacks the commit's code on a node."""


@dataclass(kw_only=True)
class Story(Teller):
    """Plays the chapters in turn."""

    repository: SampleRepository

    @property
    def moral(self) -> str:
        """Return what a story that went as told has shown."""
        return "no request failed."

    def table(self, total: timedelta) -> str:
        """Return the figures."""
        return render(self.stages, sums(self.stages, self.load.tally, self.load.executions(), self.witness, total))

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
        revision = await self.recognised("v1", known=frozenset())
        await self.witness.until(
            lambda sight: sight.stable == revision and sight.weights == {revision: 100} and is_settled(sight),
            within=FIRST_WITHIN,
            what="v1 goes live",
        )
        self.end_stage("v1 deployed", began, before, self.reaction(revision, pushed))
        self.start_load()
        self.screen.say(f"v1 ({revision}) is live. From now on every request is counted.")
        await self.answered("v1")

    async def _second_version(self) -> None:
        stable = self.sight.stable
        self.screen.title("2. A change is pushed: v2 takes over a few percent at a time")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.push(SECOND)
        self.screen.say("Committed a new VERSION in app.py. v2 starts beside v1, in its own Serve application.")
        revision = await self.recognised(SECOND.version, known=frozenset(filter(None, (stable,))))
        await self._carries(revision, 20)
        self.end_stage("v2 starts", began, before, self.reaction(revision, pushed))
        await self._through("v2 at 20%", revision, 20.01)
        await self._through("v2 to 50%", revision, 50)
        await self._through("v2 at 50%", revision, 50.01)
        await self._through("v2 to 100%", revision, 100)
        await self._cleared(revision, "v1 retires")

    async def _through(self, text: str, revision: str, percent: float) -> None:
        """Play one stage that ends when a revision carries `percent`."""
        began, before = time.monotonic(), self.load.tally.copy()
        await self._carries(revision, percent)
        self.end_stage(text, began, before)

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
        self.end_stage(what, began, before)

    async def _broken_version(self) -> None:
        stable = self.sight.stable
        assert stable is not None
        self.screen.title("3. A mistake is pushed: v3 cannot start")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.push(BROKEN)
        self.screen.say(f"Committed a v3 whose constructor opens {MISSING_FILE}, which nobody committed.")
        revision = await self.recognised(BROKEN.version, known=frozenset({stable}))
        sight = await self.witness.until(
            lambda sight: revision in sight.quarantined and sight.candidate is None,
            within=ROLLBACK_WITHIN,
            what="v3 is rolled back",
        )
        self.end_stage("v3 rolled back", began, before, self.reaction(revision, pushed))
        self.screen.say(f"v3 ({revision}) is quarantined; v2 never stopped serving. Ray's own words:")
        self.screen.quote(telling_lines(sight.quarantine))
        if MISSING_FILE not in sight.quarantine:
            self.differences.append(f"the quarantine's message does not name {MISSING_FILE}: {sight.quarantine[-300:]}")
        await self._given_up(stable, "v3 cleared away")

    async def _given_up(self, stable: str, what: str) -> None:
        began, before = time.monotonic(), self.load.tally.copy()
        sight = await self.witness.until(lambda sight: sight.revisions == {stable}, within=ROLLBACK_WITHIN, what=what)
        self.end_stage(what, began, before)
        if sight.stable != stable or sight.weights != {stable: 100}:
            self.differences.append(f"after the rollback v2 does not have all requests: {dict(sight.weights)}")

    def look_back(self) -> None:
        """Check what has to hold over the whole story."""
        tally = self.load.tally
        if tally.failed:
            self.differences.append(f"{tally.failed} of {tally.sent} requests failed: {'; '.join(tally.examples)}")
        self.check_executions()
        self.check_answers(frozenset(f"Hello from {version}" for version in ("v1", SECOND.version)))
        if self.witness.peak > BUDGET:
            states = self.witness.peak_states
            self.differences.append(f"{self.witness.peak} replicas at once ({states}), the budget is {BUDGET}")


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
