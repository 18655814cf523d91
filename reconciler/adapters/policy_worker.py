"""One policy of another package, alone in a process: it may raise, loop, print or end, and nobody is worse off.

Started by `adapters.policies` as `python -m reconciler.adapters.policy_worker rollout.NAME`. Each question comes on
standard input as a length and a pickled pair of subjects by name and World; each answer goes out as one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import IO, Any

from specs.wishes import write_wish

GROUP = "heliostat.policies"
LENGTH = struct.Struct("!Q")

MEMORY = 2 << 30
"""Bytes of address space: a policy that needs more would take it from the replicas."""

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG: one that hangs must not outlive a daemon that was killed."""


def main() -> None:
    """Answer until there are no more questions."""
    ctypes.CDLL(None, use_errno=True).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # What a policy prints must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    policy = _load(sys.argv[1])
    while (question := _read(sys.stdin.buffer)) is not None:
        subjects, world = pickle.loads(question)  # noqa: S301 (from the daemon that started this process)
        said = {name: _answer(policy, world, subject) for name, subject in subjects.items()}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def _load(policy: str) -> Callable[[Any, Any], object]:
    """Return a policy's function; what its import says wrong is told instead of each answer."""
    try:
        [entry] = entry_points(group=GROUP, name=policy)
        loaded = entry.load()
    except BaseException as error:
        problem = f"it cannot be loaded: {_told(error)}"
        return _Broken(problem)
    if not callable(loaded):
        return _Broken(f"it cannot be loaded: {entry.value} is a {type(loaded).__name__}, not a function")
    return loaded  # type: ignore[no-any-return]


class _Broken(Exception):
    """A policy that is not there."""

    def __call__(self, world: object, subject: object) -> object:
        raise self


def _answer(policy: Callable[[Any, Any], object], world: object, subject: object) -> dict[str, Any]:
    try:
        wish = write_wish(policy(world, subject))
        json.dumps(wish)
    except _Broken as error:
        return {"problem": str(error)}
    except BaseException as error:
        return {"problem": f"it raised {_told(error)}"}
    return {"wish": wish}


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__}{f': {text[:300]}' if text else ''}{where}"


def _read(stream: IO[bytes]) -> bytes | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(head)[0])


if __name__ == "__main__":
    main()
