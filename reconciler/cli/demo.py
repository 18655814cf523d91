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
@click.option("--placement", is_flag=True, help="Play the loss of a zone, its return, and compaction instead.")
@click.option("--rate", type=click.FloatRange(1, 200), default=20.0, show_default=True, help="Requests per second.")
def demo(  # noqa: PLR0913, PLR0917 (one parameter per option)
    port_base: int | None, folder: Path | None, keep: bool, stay: bool | None, placement: bool, rate: float
) -> None:
    """Play a whole rollout on this machine, with a real Ray cluster and real traffic.

    Starts a local Ray cluster (a head and three workers in zones a, b and c), a Git repository with a sample
    service, the daemon with its gateway on 127.0.0.1:8080 and its status page on 127.0.0.1:8484, and a steady
    small load. Then v1 is deployed; v2 takes over step by step; v3 is broken, comes back and is quarantined.

    With --placement there are six workers and two services spread over the zones: one zone dies under load, comes
    back, and then the nodes that the replicas do not need are emptied and go. It shows the nodes before and after
    each of these, takes about four minutes and some 4 GB of memory.

    Prints a table at the end. Exit status 0 means that no request failed and all went as told. Takes about
    two minutes, some 2 GB of memory and two cores, and leaves nothing behind.
    """
    from reconciler.demo.options import Options, Ports
    from reconciler.demo.screen import Screen
    from reconciler.demo.stage import run_demo
    from reconciler.errors import Stalled

    ports = Ports.counted_from(port_base) if port_base else Ports()
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    options = Options(
        ports=ports,
        folder=folder,
        keep=keep,
        stay=on_terminal if stay is None else stay,
        rate=rate,
        placement=placement,
    )
    try:
        status = run_demo(options, Screen())
    except Stalled as problem:
        raise click.ClickException(str(problem)) from problem
    sys.exit(status)
