"""Tells what the witness sees: a live line on a terminal, and a line for each change that matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.api.views import excerpt
from reconciler.demo.repository import SERVICE
from reconciler.demo.screen import Names, Screen
from reconciler.demo.traffic import Tally
from reconciler.demo.witness import Sight

LOUD_EVENTS = frozenset(
    {"SpecChanged", "RolloutStarted", "Promoted", "RolledBack", "Quarantined", "Superseded", "Scaled", "CellRetired"}
)
"""What a user who pushes changes by hand wants to read; weights are told from what is seen."""

NODE_EVENTS = frozenset({"NodeDrainBegun", "NodeFreed", "NodeDrainGivenUp", "NodeKept"})
"""Told always: nodes are emptied in the story about them only."""


@dataclass(kw_only=True)
class Narrator:
    """Speaks of weights and pauses always, of the daemon's own events once the user pushes (`is_open`)."""

    screen: Screen
    names: Names
    tally: Tally
    is_open: bool = False
    _weights: Mapping[str, float] = field(default_factory=dict)
    _pause: str = ""

    def saw(self, sight: Sight) -> None:
        """Tell what changed since the last sight."""
        shares = self.names.shares(sight.weights)
        if sight.weights != self._weights:
            self._weights = sight.weights
            text = ", ".join(f"{share.name} {share.percent:g}%" for share in shares) or "nobody"
            self.screen.say(f"Requests go to {text}. Replicas: {sight.ready} ready, {sight.live} live.")
        pause = sight.message if sight.reason == "Pausing" else ""
        if pause and pause != self._pause:
            self.screen.say(f"{pause[0].upper()}{pause[1:]}, to see how the new version does.")
        self._pause = pause
        facts = f"| {self.tally.sent} requests, {self.tally.failed} failed | {sight.live} live | {headline(sight)}"
        self.screen.live(shares, facts)

    def heard(self, event: Mapping[str, Any]) -> None:
        """Tell of one of the daemon's events."""
        is_wanted = self.is_open and event["service"] == SERVICE and event["kind"] in LOUD_EVENTS
        if is_wanted or event["kind"] in NODE_EVENTS:
            self.screen.say(f"{event['kind']}: {excerpt(event['message']).line}")


def headline(sight: Sight) -> str:
    """Return where the service stands in one line."""
    return f"{sight.reason}: {sight.message.partition(chr(10))[0]}"
