"""When a rollout may start and go on: what it depends on, the cluster's windows, and who else moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policies.dependencies import await_dependencies
from policies.membership import limit_moving, moving
from specs.decisions import Decision, Hold, Proceed, StartRollout
from specs.memory import ServiceMemory
from specs.reasons import Reason
from specs.windows import is_open, opens_at
from specs.world import World

Veto = Callable[[Decision], Decision]
"""Weakens a decision to a Hold, or lets it pass."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a start or a step forward is checked against.

    `memory` is Memory as it became in this look: who was let go a moment ago counts.
    """

    world: World
    memory: Mapping[str, ServiceMemory]
    conflicts: Mapping[str, Hold]

    def veto(self, decision: Decision) -> Decision:
        """Weaken what may not begin or go on now to a Hold. A way back is never held for others' sake."""
        if isinstance(decision, StartRollout) and decision.service in self.conflicts:
            return self.conflicts[decision.service]
        if not isinstance(decision, StartRollout | Proceed) or _is_way_back(decision):
            return decision
        for check in (self._dependencies, self._policy_unread, self._window, self._slot):
            held = check(decision)
            if held is not None:
                return held
        return decision

    def _dependencies(self, decision: StartRollout | Proceed) -> Hold | None:
        return await_dependencies(self.world, decision) if isinstance(decision, StartRollout) else None

    def _policy_unread(self, decision: StartRollout | Proceed) -> Hold | None:
        """After a restart without Git nobody knows the windows: what is not known is not taken for open."""
        if self.world.desired is not None or self._is_first(decision):
            return None
        text = "the ClusterPolicy (its windows and budget) is not known before Git was read once"
        return Hold(service=decision.service, reason=Reason.GIT_UNREACHABLE, message=text)

    def _window(self, decision: StartRollout | Proceed) -> Hold | None:
        """A first deployment that was begun is finished: half-way it would serve nobody."""
        windows = self.world.desired.settings.windows if self.world.desired else ()
        if is_open(windows, self.world.now):
            return None
        if isinstance(decision, Proceed) and self._is_first(decision):
            return None
        until = opens_at(windows, self.world.now)
        when = f"the next one opens at {until:%a %Y-%m-%d %H:%M} UTC" if until else "none opens in the next two weeks"
        text = f"no rollout starts or goes on outside the ClusterPolicy's windows: {when}"
        return Hold(service=decision.service, reason=Reason.OUTSIDE_WINDOW, message=text, until=until)

    def _slot(self, decision: StartRollout | Proceed) -> Hold | None:
        settings = self.world.desired.settings if self.world.desired else None
        return limit_moving(decision, moving(self.memory), settings.max_services_moving) if settings else None

    def _is_first(self, decision: StartRollout | Proceed) -> bool:
        return self.memory[decision.service].stable is None


def _is_way_back(decision: StartRollout | Proceed) -> bool:
    return decision.is_fast if isinstance(decision, StartRollout) else decision.is_way_back
