"""Policies of other packages: found by entry points, enabled by the settings, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Self

from policies.registry import BUILT_IN
from reconciler.adapters.policy_worker import GROUP, LENGTH
from reconciler.errors import Retry, Stalled
from reconciler.ports import Clock
from specs.wishes import PolicyKind
from specs.world import World

FIRST_ANSWER = timedelta(seconds=30)
"""The first answer of a process holds its start and the import of the package."""

ANSWER_WITHIN = timedelta(seconds=5)
"""A policy that needs longer for a look at all its services is ended: its advice would be about another world."""

ANSWER_LIMIT = 1 << 20
LONGEST_REST = timedelta(minutes=1)

PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV")
"""The variables that a policy's process has: none of the daemon's secrets."""


class PluginPolicies:
    """Implements `reconciler.ports.Advisers`."""

    def __init__(self, enabled: Iterable[str], clock: Clock) -> None:
        """Check that each enabled policy is there. Raises Stalled that says which ones are not, and which are."""
        self._enabled = frozenset(enabled)
        problems = tuple(found for policy in sorted(self._enabled) if (found := problem_of(policy)))
        if problems:
            raise Stalled("; ".join(problems))
        self._clock = clock
        self._workers: dict[str, _Worker] = {}

    @property
    def enabled(self) -> frozenset[str]:
        """Return what the settings enable."""
        return self._enabled

    async def consult(self, policy: str, subjects: Mapping[str, object], world: World) -> Mapping[str, object]:
        """Return a policy's documents. One subject's exception is that one's; a late answer ends the process."""
        worker = self._workers.setdefault(policy, _Worker(policy, self._clock))
        # In a thread: a World of many services takes a while, and the loop must not.
        question = await asyncio.to_thread(pickle.dumps, (dict(subjects), world), pickle.HIGHEST_PROTOCOL)
        said = await worker.ask(question)
        if not isinstance(said, dict):
            raise Retry("its answer is no document")
        return {name: _document(said.get(name)) for name in subjects}

    async def __aenter__(self) -> Self:
        """Return the policies themselves."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End all processes."""
        for worker in self._workers.values():
            await worker.stop()


def _document(answer: object) -> object:
    if isinstance(answer, dict) and "wish" in answer:
        return answer["wish"]
    return answer


def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return what installed packages offer, by policy; more than one of a name is a mistake to be told."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        known = found.get(entry.name, ())
        if all(_package(other) != _package(entry) for other in known):
            found[entry.name] = (*known, entry)
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def problem_of(policy: str) -> str | None:
    """Return why a policy cannot be enabled, or None."""
    kind, _, name = policy.partition(".")
    if kind not in tuple(PolicyKind) or not name:
        return f"the policy {policy!r} has no kind: write one of {', '.join(f'{kind}.NAME' for kind in PolicyKind)}"
    if name in BUILT_IN[PolicyKind(kind)]:
        return f"the policy {policy} is Heliostat's own and always there: leave it out"
    offers = installed()
    if policy not in offers:
        there = ", ".join(sorted(offers)) or "none"
        return f"no installed package has the policy {policy} (entry-point group {GROUP}); installed are: {there}"
    if len(offers[policy]) > 1:
        packages = ", ".join(sorted(map(_package, offers[policy])))
        return f"the policy {policy} comes from several packages ({packages}): uninstall all but one"
    return None


class _Worker:
    """One policy's process, started when it is first asked, ended when it is late, and then left alone for a while."""

    def __init__(self, policy: str, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._has_answered = False
        self._failures = 0
        self._failed_at = clock.now()
        self._last = ""

    async def ask(self, question: bytes) -> object:
        """Return what the process answers. Raises Retry."""
        rest = min(LONGEST_REST, timedelta(seconds=2.0**self._failures)) if self._failures else timedelta(0)
        if self._failures and self._clock.now() - self._failed_at < rest:
            raise Retry(f"{self._last}; it is started again {rest.total_seconds():.0f} s after that")
        within = ANSWER_WITHIN if self._has_answered else FIRST_ANSWER
        try:
            async with asyncio.timeout(within.total_seconds()):
                answer = await self._exchange(question)
        except TimeoutError:
            raise await self._failed(f"no answer within {within.total_seconds():.0f} s") from None
        except (OSError, ValueError, RecursionError) as error:
            raise await self._failed(str(error) or type(error).__name__) from error
        except asyncio.CancelledError:
            await self.stop()
            raise
        self._has_answered, self._failures = True, 0
        return answer

    async def _exchange(self, question: bytes) -> object:
        process = self._process or await self._start()
        if process.stdin is None or process.stdout is None:
            raise OSError("its process has no pipes")
        process.stdin.write(LENGTH.pack(len(question)))
        process.stdin.write(question)
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise OSError(f"its process ended ({await process.wait()})")
        return json.loads(line)

    async def _start(self) -> asyncio.subprocess.Process:
        self._has_answered = False
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "reconciler.adapters.policy_worker",
            self._policy,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            start_new_session=True,
            limit=ANSWER_LIMIT,
        )
        return self._process

    async def _failed(self, why: str) -> Retry:
        await self.stop()
        self._failures, self._failed_at, self._last = self._failures + 1, self._clock.now(), why
        return Retry(why)

    async def stop(self) -> None:
        """End the process and whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
