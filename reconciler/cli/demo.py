"""`heliostat demo`: see it all happen on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option("--port-base", type=click.IntRange(1024, 65000), metavar="N", help="Use ports N, N+1 and N+2 instead.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put repository, state and log into this new or empty folder, and keep it.",
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder with repository, state and log.")
@click.option(
    "--stay/--exit",
    default=None,
    help="After the story stay up for you to push to, or exit. Default: stay on a terminal.",
)
@click.option("--rate", type=click.FloatRange(1, 200), default=20.0, show_default=True, help="Requests per second.")
def demo(port_base: int | None, folder: Path | None, keep: bool, stay: bool | None, rate: float) -> None:
    """Play a whole rollout on this machine, with a real Ray cluster and real traffic.

    Starts a local Ray cluster (a head and three workers in zones a, b and c), a Git repository with a sample
    service, the daemon with its gateway on 127.0.0.1:8080 and its status page on 127.0.0.1:8484, and a steady
    small load. Then v1 is deployed; v2 takes over step by step; v3 is broken, comes back and is quarantined.

    Prints a table at the end. Exit status 0 means that no request failed and all went as told. Takes about
    two minutes, some 2 GB of memory and two cores, and leaves nothing behind.
    """
    from reconciler.demo.options import Options, Ports
    from reconciler.demo.screen import Screen
    from reconciler.demo.stage import run_demo
    from reconciler.errors import Stalled

    ports = Ports.counted_from(port_base) if port_base else Ports()
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    options = Options(ports=ports, folder=folder, keep=keep, stay=on_terminal if stay is None else stay, rate=rate)
    try:
        status = run_demo(options, Screen())
    except Stalled as problem:
        raise click.ClickException(str(problem)) from problem
    sys.exit(status)
