"""The looking verbs: status, history, nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from reconciler.cli import overview
from reconciler.cli.client import Daemon, DaemonError, connection, output_option, segment
from reconciler.cli.replies import as_json, read
from specs.memory import HistoryEntry
from specs.observed import Node
from specs.seats import Seat
from specs.status import ClusterStatus

WATCH_INTERVAL = 1.0
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@click.command()
@click.argument("service", required=False)
@click.option("--watch", "-w", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
@output_option
@connection
def status(service: str | None, watch: bool, output: str, daemon: Daemon) -> None:
    """Show all services, or SERVICE in detail."""
    if watch and output == "json":
        raise click.UsageError("-o json prints one document: use it without --watch")
    if watch:
        _watch(lambda: _status_text(daemon, service))
    elif output == "json":
        click.echo(as_json(daemon.get(f"/services/{segment(service)}" if service else "/status")))
    else:
        click.echo(_status_text(daemon, service))


def _status_text(daemon: Daemon, service: str | None) -> str:
    cluster = read(ClusterStatus, daemon.get("/status"))
    if service is None:
        return overview.cluster_text(cluster, _now())
    found = next((entry for entry in cluster.services if entry.name == service), None)
    if found is None:
        names = ", ".join(entry.name for entry in cluster.services) or "none"
        raise DaemonError(f"there is no service {service!r}; there are: {names}", 404)
    return overview.service_text(cluster, found, _now())


def _watch(show: Callable[[], str]) -> None:
    """Draw anew on a terminal; elsewhere print what changed, one after the other."""
    last = ""
    while True:
        try:
            text = show()
        except DaemonError as error:
            if error.status:
                raise
            text = f"{last.rstrip()}\n\n{error.message}" if sys.stdout.isatty() else error.message
        if sys.stdout.isatty():
            click.echo(CLEAR + text)
        elif text != last:
            click.echo(text + "\n")
            last = text
        time.sleep(WATCH_INTERVAL)


@click.command()
@click.argument("service")
@output_option
@connection
def history(service: str, output: str, daemon: Daemon) -> None:
    """Show SERVICE's ended rollouts, newest first."""
    document = daemon.get(f"/services/{segment(service)}/history")
    if output == "json":
        click.echo(as_json(document))
        return
    entries = read(tuple[HistoryEntry, ...], document["history"])
    click.echo(overview.history_text(entries) if entries else f"no rollout of {service} has ended yet")


@click.command()
@output_option
@connection
def nodes(output: str, daemon: Daemon) -> None:
    """Show the cluster's nodes and the replicas on them as the daemon last saw them."""
    document: Any = daemon.get("/nodes")
    if output == "json":
        click.echo(as_json(document))
        return
    found = read(tuple[Node, ...], document["nodes"])
    seats = read(tuple[Seat, ...], document.get("replicas", []))
    click.echo(overview.nodes_text(found, seats) if found else "no nodes seen yet")


def _now() -> datetime:
    # The command line is outside of the loop: nothing is decided here, ages are shown.
    return datetime.fromtimestamp(time.time_ns() / 1e9, tz=UTC)
