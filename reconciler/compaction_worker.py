"""One plan, in a process of its own: a problem as JSON on stdin, the answer on stdout.

The solver is some 65 MiB of libraries and takes a second or two of a core: neither belongs into the daemon's process.
"""

from __future__ import annotations

import sys
from time import perf_counter

from policies.compaction.planner import plan
from policies.compaction.problem import Problem
from reconciler.adapters.stored_values import from_json, to_json


def main() -> None:
    """Read, plan, write."""
    problem = from_json(Problem, sys.stdin.read())
    began = perf_counter()
    sys.stdout.write(to_json(plan(problem, spent=lambda: perf_counter() - began)))


if __name__ == "__main__":
    main()
