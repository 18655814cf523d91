"""Where to look, whether the story went as told, and what to try next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.demo.guest_book import Executions
from reconciler.demo.options import HOST
from reconciler.demo.repository import APP, MISSING_FILE, SERVICE, SPEC
from reconciler.demo.screen import BOLD, GREEN, RED, Screen
from reconciler.demo.traffic import Tally

DEFAULT_SERVER = f"http://{HOST}:8484"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Addresses and folders of a demo."""

    page: str
    service: str
    ray: str
    repository: Path
    log: Path


def where(places: Places) -> tuple[str, ...]:
    """Return the lines that say where everything is."""
    rows = (
        ("status page", places.page),
        ("the service", f"{places.service}  (once v1 is live)"),
        ("Ray", places.ray),
        ("repository", str(places.repository)),
        ("daemon's log", str(places.log)),
    )
    return tuple(f"{'':9}{name:13} {value}" for name, value in rows)


def verdict(differences: Sequence[str], screen: Screen, moral: str = "") -> str:
    """Return one line with the story's moral when all went well, else what differed."""
    if not differences:
        return screen.colour(f"The story went as told: {moral}", BOLD, GREEN)
    head = screen.colour("The story did not go as told:", BOLD, RED)
    return "\n".join([head, *(f"- {difference}" for difference in differences)])


def next_steps(places: Places, screen: Screen) -> tuple[str, ...]:
    """Return what a user can try now, as commands that work when pasted into another terminal."""
    heliostat = command_name()
    server = "" if places.page == DEFAULT_SERVER else f" --server {places.page}"
    repository = shlex.quote(str(places.repository))
    commands = (
        ("Watch, in a second terminal:", (f"{heliostat} status {SERVICE} --watch{server}",)),
        (
            "Mend v3 by committing the file that it misses, in a third one:",
            (
                f"cd {repository}",
                f"echo Hello > services/{SERVICE}/{MISSING_FILE}",
                "git add . && git commit -m 'Commit the greeting, too'",
            ),
        ),
        ("Push a change of yours:", (f'sed -i \'s/"v3"/"v4"/\' {APP}', "git commit -am 'Greet from v4'")),
        (
            "Break it, see it come back, and take the mistake out again:",
            (
                f"sed -i 's/self.greeting = /self.greeting = 1 \\/ 0 or /' {APP}",
                "git commit -am 'Break it'",
                f"{heliostat} history {SERVICE}{server}",
                "git revert --no-edit HEAD",
            ),
        ),
        (
            "Scale, which needs no rollout:",
            (f"sed -i 's/num_replicas: 3/num_replicas: 4/' {SPEC}", "git commit -am 'One more replica'"),
        ),
        (
            "See which nodes are not needed; after five minutes without a change they go (cluster.yaml says so):",
            (f"{heliostat} compaction{server}",),
        ),
    )
    return _your_turn(places, screen, commands)


def placement_steps(places: Places, screen: Screen) -> tuple[str, ...]:
    """Return what a user can try after the story about zones and nodes, as commands that work when pasted."""
    heliostat = command_name()
    server = "" if places.page == DEFAULT_SERVER else f" --server {places.page}"
    commands = (
        ("See what is where:", (f"{heliostat} nodes{server}", f"{heliostat} status {SERVICE}{server}")),
        ("See why no further node can go:", (f"{heliostat} compaction{server}",)),
        (
            "Move it out of zone a:",
            (
                f"cd {shlex.quote(str(places.repository))}",
                f"sed -i 's/zones: {{min: 2}}/zones: {{exclude: [a]}}/' {SPEC}",
                "git commit -am 'Leave zone a'",
            ),
        ),
    )
    return _your_turn(places, screen, commands)


def _your_turn(places: Places, screen: Screen, commands: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    lines = ["", screen.colour("Your turn. Everything stays up and the load goes on until Ctrl-C.", BOLD)]
    lines += [f"  Open {places.page} in a browser; ask the service at {places.service}"]
    for text, typed in commands:
        lines += [f"  {text}", *(f"    {command}" for command in typed)]
    return (*lines, "")


def sums(tally: Tally, executions: Executions) -> str:
    """Return what became of all requests, those after the story included."""
    failed = f"{tally.failed} failed" + (f" ({'; '.join(tally.examples)})" if tally.failed else "")
    return f"All in all {tally.sent} requests: {failed}, {len(executions.twice)} executed twice."


def command_name() -> str:
    """Return how the user can call the command line from another terminal."""
    script = Path(sys.argv[0])
    if shutil.which("heliostat"):
        return "heliostat"
    beside = Path(sys.executable).with_name("heliostat")
    found = script if script.name == "heliostat" else beside
    return shlex.quote(os.path.abspath(found))
