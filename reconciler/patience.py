"""What Ray refused is not asked again at every look: the same effect waits longer each time, another one does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.errors import PortError, Retry
from specs.effects import Effect, PutServeConfig, ScaleDeployment, UploadPackage

LONGEST_RETRY = timedelta(seconds=8)
"""For what may work at any moment: longer, and a service would stand still after a short trouble."""

LONGEST_STALL = timedelta(minutes=1)
"""For what a person or a commit must mend. A commit makes another effect, which is tried at once."""


@dataclass(frozen=True, kw_only=True)
class _Refused:
    error: PortError
    count: int
    until: datetime


class Patience:
    """Remembers which effects were refused, and until when each is not tried again."""

    def __init__(self) -> None:
        """Nothing was refused yet."""
        self._refused: dict[Effect, _Refused] = {}

    def ask(self, effect: Effect, now: datetime) -> None:
        """Raise the error again that an effect met, while it is too early to try anew."""
        refused = self._refused.get(effect)
        if refused is not None and now < refused.until:
            raise refused.error

    def refused(self, effect: Effect, error: PortError, now: datetime) -> None:
        """Note a refusal. What was only raised again is not another one."""
        if not isinstance(effect, PutServeConfig | ScaleDeployment | UploadPackage):
            return  # Memory and routes are ours: whatever was in the way, traffic waits for them.
        before = self._refused.get(effect)
        if before is not None and before.error is error:
            return
        count = before.count + 1 if before else 1
        self._refused[effect] = _Refused(error=error, count=count, until=now + _wait(error, count))

    def keep(self, effects: Iterable[Effect]) -> None:
        """Forget all others: nobody asks for them any more."""
        asked = set(effects) & self._refused.keys() if self._refused else set()
        self._refused = {effect: self._refused[effect] for effect in self._refused if effect in asked}

    def done(self, effect: Effect) -> None:
        """Forget what went well."""
        if self._refused:
            self._refused.pop(effect, None)


def _wait(error: PortError, count: int) -> timedelta:
    """Return how long an effect waits after it was refused so many times: doubled each time, within limits."""
    doubled = timedelta(seconds=float(2 ** min(count - 1, 10)))
    if isinstance(error, Retry):
        return max(error.after, min(doubled, LONGEST_RETRY))
    return min(doubled, LONGEST_STALL)
