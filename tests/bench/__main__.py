"""`make bench [ARGS="throughput pace ..."]`: measure; the names are below."""

from __future__ import annotations

import sys

from tests.bench import (
    analysis,
    compaction,
    compaction_ray,
    fleet,
    gateway_cost,
    loading_serve,
    local_reads,
    pace,
    repository,
    throughput,
    turn,
    webhook,
)

BENCHMARKS = {
    "throughput": throughput.run,
    "pace": pace.run,
    "webhook": webhook.run,
    "repository": repository.run,
    "fleet": fleet.run,
    "gateway": gateway_cost.run,
    "analysis": analysis.run,
    "turn": turn.run,
    "compaction": compaction.run,
    "compaction-ray": compaction_ray.run,
    "loading-serve": loading_serve.run,
    "local-reads": local_reads.run,
}


def main() -> None:
    """Run the benchmarks named on the command line; all of them by default."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise SystemExit(f"unknown benchmarks {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
