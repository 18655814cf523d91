"""A repository of a thousand services: to check it, to plan a change of it, and to read the next commit of it."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.garbage import spare_what_is_there
from specs.desired import Desired
from tests.bench import report
from tests.origin import Origin

SERVICES = 1000
ROUNDS = 5
COMMITS = 15

SPEC = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: {name}, labels: {{team: {team}}}}}
spec:
  route: /{name}
  application:
    import_path: app:build
    args: {{model: small, number: {number}}}
    runtime_env:
      working_dir: .
      env_vars: {{LEVEL: "{number}"}}
    deployments:
      - {{name: Ingress, num_replicas: 2, ray_actor_options: {{num_cpus: 1}}}}
      - name: Model
        autoscaling_config: {{min_replicas: 2, max_replicas: 8}}
        ray_actor_options: {{num_cpus: 1, num_gpus: 1}}
  rollout:
    maxSurge: 1
    steps:
      - setWeight: 10
      - pause: {{duration: 60s}}
      - setWeight: 50
      - analysis: {{}}
  analysis: {{successRate: {{min: 99%}}}}
"""


def files() -> dict[str, str]:
    """Return a service in a folder each, with code of its own."""
    found = {}
    for number in range(SERVICES):
        name, team = f"s{number:04}", f"team{number % 40:02}"
        folder = f"services/{team}/{name}"
        found[f"{folder}/service.yaml"] = SPEC.format(name=name, team=team, number=number)
        found[f"{folder}/app.py"] = f"NUMBER = {number}\n\n\ndef build(args): ...\n"
        found[f"{folder}/model.py"] = f"# of {name}\n"
    return found


def run() -> None:
    """Measure, write docs/benchmarks/repository.md."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="heliostat-bench-") as folder:
        origin = Origin(Path(folder) / "repo")
        origin.commit(files(), "All")
        change = origin.folder / "services/team07/s0007"
        (change / "app.py").write_text("NUMBER = 8\n")
        (change / "service.yaml").write_text((change / "service.yaml").read_text().replace("small", "large"))
        origin.commit(message="One")
        validate = rounds(lambda: command("validate", str(origin.folder)))
        plan = rounds(lambda: command("plan", "--repo", str(origin.folder)))
        first, following = asyncio.run(commits(origin, Path(folder) / "state"))
    rows = [
        (f"`heliostat validate` of {SERVICES} services", "5 s", *seconds(validate)),
        ("offline `heliostat plan` of a commit that touches one of them", "3 s", *seconds(plan)),
        ("the daemon's first reading after a start", "", *seconds(first)),
        ("from a commit that touches one of them to a new Desired", "0.2 s", *seconds(following)),
    ]
    report.write(
        "repository",
        f"A repository of {SERVICES} services",
        [
            f"{SERVICES} services, each in a folder of its own with its code, two deployments, steps and an analysis. "
            f"The two commands are timed as whole processes, the import of Python modules included, {ROUNDS} times; "
            f"the daemon's Git source reads a local repository, {COMMITS} commits one after the other, timed from the "
            "call to the answer (its own `git fetch` included).",
            "The processor's time counts the git processes too. A busy machine is slower by the clock: at the start "
            f"its load was {load:.0f} on {os.cpu_count()} cores.",
            report.table(("what", "goal", "median", "longest", "processor, median", "processor, longest"), rows),
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Taken:
    """How long something took: by the clock, and of the processor, git's own time included."""

    wall: float
    cpu: float


class Stopwatch:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._since = (time.perf_counter(), processor())

    def taken(self) -> Taken:
        return Taken(wall=time.perf_counter() - self._since[0], cpu=processor() - self._since[1])


def processor() -> float:
    """Return the processor time of this process and of all that it waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def rounds(action: Callable[[], None]) -> list[Taken]:
    """Return how long each of some rounds took."""
    taken = []
    for _ in range(ROUNDS):
        watch = Stopwatch()
        action()
        taken.append(watch.taken())
    return taken


def command(*arguments: str) -> None:
    """Run one heliostat command as a user does."""
    program = Path(sys.executable).with_name("heliostat")
    subprocess.run([str(program), *arguments], check=True, capture_output=True, env=os.environ)


async def commits(origin: Origin, state: Path) -> tuple[list[Taken], list[Taken]]:
    """Return how long the first reading took, and each after a commit to one service."""
    source = GitSource(GitSettings(url=str(origin.folder), state=state), SystemClock())
    first, desired = await timed(source)
    assert len(desired.services) == SERVICES
    spare_what_is_there()  # As the daemon does after its first turn.
    taken = []
    for number in range(COMMITS):
        name, was = f"s{number * 17:04}", desired
        folder = origin.folder / f"services/team{number * 17 % 40:02}/{name}"
        spec = folder / "service.yaml"
        spec.write_text(spec.read_text().replace("model: ", f"model: v{number}-"))
        (folder / "app.py").write_text(f"NUMBER = {number}.5\n")
        origin.commit(message=name)
        elapsed, desired = await timed(source)
        taken.append(elapsed)
        changed = [
            s.name for s, t in zip(desired.services, was.services, strict=True) if s.revision.id != t.revision.id
        ]
        assert changed == [name], changed
    return [first], taken


async def timed(source: GitSource) -> tuple[Taken, Desired]:
    """Return how long one reading took, and what it read."""
    watch = Stopwatch()
    reading = await source.read()
    elapsed = watch.taken()
    assert reading.desired is not None
    assert not reading.problem
    return elapsed, reading.desired


def seconds(taken: list[Taken]) -> tuple[str, str, str, str]:
    """Return median and longest by the clock, then median and longest of the processor."""
    wall, cpu = [one.wall for one in taken], [one.cpu for one in taken]
    return tuple(f"{one:.3f} s" for one in (statistics.median(wall), max(wall), statistics.median(cpu), max(cpu)))
