"""Which entry of a document it is that Serve refuses: the others must not wait for it.

Ray's dashboard checks a PUT as a whole, and imports an entry's `policy_function` and `request_router_class` while
it does (Ray 2.60): one that it cannot import makes it refuse every application in the document. Nothing that can
be known beforehand tells which it will import. So a refused document is put again entry by entry, and an entry
that is refused alone is left out for a while.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from reconciler.adapters.serve_details import ServeDetails
from reconciler.adapters.serve_put import is_held
from reconciler.errors import Stalled
from specs.effects import PutServeConfig

FIRST_WAIT = timedelta(seconds=15)
"""How long an entry is left out after its first refusal: what it lacks may be installed on the head node."""

LONGEST_WAIT = timedelta(minutes=5)

WORD = re.compile(r"\w+")

Send = Callable[[PutServeConfig], Awaitable[str]]
"""PUTs a change; returns why Serve refused it, "" when it took it."""


@dataclass(frozen=True, kw_only=True)
class _Refused:
    why: str
    count: int
    until: float


class RefusedEntries:
    """Entries that Serve refused each by itself, by their text, and until when they are left out."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """`now` returns seconds; the running event loop's by default."""
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._entries: dict[str, _Refused] = {}

    def present(self) -> Mapping[str, str]:
        """Return why each entry that is left out now was refused; one that nobody has put for long is forgotten."""
        now = self._now()
        kept = now - LONGEST_WAIT.total_seconds()
        self._entries = {entry: found for entry, found in self._entries.items() if found.until > kept}
        return {entry: found.why for entry, found in self._entries.items() if now < found.until}

    async def put_apart(self, change: PutServeConfig, details: ServeDetails, send: Send, why: str) -> PutServeConfig:
        """Put what is new in a refused change entry by entry, and return what Serve took of it.

        `why` is what Serve said of the whole, `details` what it holds; that stays as it is. Each accepted PUT
        starts builds in progress anew: those of this change, which began a moment ago. Raises Stalled when
        Serve took nothing.
        """
        names = {wanted.name for wanted in change.applications if not is_held(details, _only(wanted.name, change))}
        new = [wanted.config for wanted in change.applications if wanted.name in names]
        guilty = _held_and_named(details, change, new, why)
        if guilty:
            raise Stalled(
                f"{why}. That is of {', '.join(guilty)}, which Serve holds already: install it on the head node; until "
                "then Serve takes no change of its document."
            )
        if not names:
            raise Stalled(why)
        taken = held = replace(change, applications=tuple(old for old in change.applications if old.name not in names))
        for wanted in (new for new in change.applications if new.name in names):
            wider = replace(taken, applications=(*taken.applications, wanted), may_cut_builds=True)
            # One new entry and nothing else was all of the change: what Serve said of it is known.
            refusal = why if wider.applications == change.applications and taken == held else await send(wider)
            if refusal:
                self._note(wanted.config, refusal)
            else:
                self.took(wider)
                taken = wider
        if taken == held and (not change.removed or await send(held)):
            raise Stalled(why)
        return taken

    def took(self, change: PutServeConfig) -> None:
        """Forget the refusals of entries that Serve took."""
        for wanted in change.applications if self._entries else ():
            self._entries.pop(wanted.config, None)

    def _note(self, entry: str, why: str) -> None:
        before = self._entries.get(entry)
        count = before.count + 1 if before else 1
        wait = min(FIRST_WAIT * 2 ** min(count - 1, 10), LONGEST_WAIT)
        self._entries[entry] = _Refused(why=why, count=count, until=self._now() + wait.total_seconds())


def _held_and_named(details: ServeDetails, change: PutServeConfig, new: Iterable[str], why: str) -> list[str]:
    """Return the applications that Serve keeps, and that alone import what a refusal names."""
    excused = {root for config in new for root in _roots(json.loads(config))}
    kept = {
        name: found.deployed_app_config
        for name, found in sorted(details.applications.items())
        if found.is_declarative and not found.is_leaving and name not in change.removed
    }
    named = set(WORD.findall(why))
    return [name for name, config in kept.items() if named & (set(_roots(config or {})) - excused)]


def _roots(application: Mapping[str, Any]) -> Iterator[str]:
    """Yield the top-level modules that Ray's dashboard imports for an application."""
    for deployment in application.get("deployments") or ():
        autoscaling, router = deployment.get("autoscaling_config"), deployment.get("request_router_config")
        policy = autoscaling.get("policy") if isinstance(autoscaling, Mapping) else None
        paths = [
            policy.get("policy_function") if isinstance(policy, Mapping) else None,
            router.get("request_router_class") if isinstance(router, Mapping) else None,
        ]
        yield from (WORD.findall(path)[0] for path in paths if isinstance(path, str) and WORD.search(path))


def _only(name: str, change: PutServeConfig) -> PutServeConfig:
    kept = tuple(wanted for wanted in change.applications if wanted.name == name)
    return PutServeConfig(applications=kept, removed=frozenset(), may_cut_builds=False)
