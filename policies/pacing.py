"""When a rollout may start and go on: what it depends on, the cluster's windows, and who else moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from policies.dependencies import await_dependencies
from policies.membership import is_moving, limit_moving, moving
from policies.surge import Refusal, ask, held_by
from policies.view import view_of
from specs.decisions import Decision, Hold, Proceed, StartRollout
from specs.memory import Memory, ServiceMemory
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
    waiting: list[str] = field(default_factory=list)
    """Who was refused surge in this look, the longest waiting first: whoever asks later waits behind them."""

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
        return self._with_surge(decision) if isinstance(decision, StartRollout) else decision

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
        if settings is None or is_moving(self.memory[decision.service]):
            return None
        return limit_moving(decision, moving(self.memory), settings.max_services_moving)

    def _with_surge(self, decision: StartRollout) -> Decision:
        """Hand out surge to who has waited longest. Nobody takes what somebody before him would get soon."""
        limit = self.world.desired.settings.max_surge_replicas if self.world.desired else None
        if limit is None:
            return decision
        now = replace(self.world, memory=Memory(services=dict(self.memory)))
        held = {name: held_by(view_of(now, name)) for name in sorted(self.memory) if name != decision.service}
        answer = ask(view_of(now, decision.service), held, limit)
        if isinstance(answer, Refusal):
            parked = sum(held[name] for name in held if self._is_parked(name))
            if answer.least <= limit - parked:
                self.waiting.append(decision.service)
            return Hold(service=decision.service, reason=Reason.CAPACITY_BUDGET, message=answer.message)
        if self.waiting and not self._is_first(decision):
            text = f"waits for surge replicas behind {', '.join(self.waiting)}"
            return Hold(service=decision.service, reason=Reason.CAPACITY_BUDGET, message=text)
        return replace(decision, surge=answer.surge)

    def _is_parked(self, name: str) -> bool:
        rollout = self.memory[name].rollout
        return rollout is not None and rollout.is_parked

    def _is_first(self, decision: StartRollout | Proceed) -> bool:
        return self.memory[decision.service].stable is None


def in_turn(memory: Mapping[str, ServiceMemory]) -> list[str]:
    """Return the services in the order in which they are asked: who has waited longest for a rollout comes first."""

    def place(service: ServiceMemory) -> tuple[bool, datetime | None, str]:
        since = service.queued_at
        if since is None and service.rollout is not None and service.rollout.is_parked:
            since = service.rollout.started_at
        return since is None, since, service.name

    waiting = sorted((service for service in memory.values() if not place(service)[0]), key=place)
    others = sorted(service.name for service in memory.values() if place(service)[0])
    return [*(service.name for service in waiting), *others]


def _is_way_back(decision: StartRollout | Proceed) -> bool:
    return decision.is_fast if isinstance(decision, StartRollout) else decision.is_way_back
