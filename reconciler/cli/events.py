"""`heliostat events`: what happened, and with --follow what happens."""

from __future__ import annotations

import json
import time

import click

from reconciler.cli import overview
from reconciler.cli.client import Daemon, DaemonError, connection, output_option
from reconciler.cli.replies import as_json, read
from specs.memory import Event

PAUSE = 1.0
"""Before a lost stream is asked for again."""


@click.command()
@click.argument("service", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with new ones as they happen, until Ctrl-C.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many past ones.")
@output_option
@connection
def events(service: str | None, follow: bool, limit: int, output: str, daemon: Daemon) -> None:
    """Show what happened to SERVICE, or to all services; with --follow -o json, one JSON document a line."""
    params: dict[str, str | int] = {"limit": limit, **({"service": service} if service else {})}
    document = daemon.get("/events", **params)
    found = read(tuple[Event, ...], document["events"])
    if output == "json" and not follow:
        click.echo(as_json(document))
        return
    for entry, event in zip(document["events"], found, strict=True):
        _show(entry, event, output)
    if follow:
        _follow(daemon, service, found[-1].id if found else _newest(daemon), output)
    elif not found:
        click.echo("nothing has happened yet", err=True)


def _newest(daemon: Daemon) -> int:
    latest = daemon.get("/events", limit=1)["events"]
    return int(latest[-1]["id"]) if latest else 0


def _follow(daemon: Daemon, service: str | None, since: int, output: str) -> None:
    """Print events for ever; a daemon that restarts is waited for, and nothing in between is missed."""
    is_lost = False
    while True:
        try:
            for number, name, data in daemon.stream("/events/stream", since=since):
                is_lost = _tell_back(is_lost)
                since = max(since, number)
                if name == "event" and service in (None, data["service"]):
                    _show(data, read(Event, data), output)
        except DaemonError as error:
            if error.status:
                raise
            if not is_lost:
                click.echo(f"{error.message}; waiting for it", err=True)
            is_lost = True
        time.sleep(PAUSE)


def _tell_back(is_lost: bool) -> bool:
    if is_lost:
        click.echo("the daemon is back", err=True)
    return False


def _show(document: object, event: Event, output: str) -> None:
    # One JSON document a line: a stream has no end, so it cannot be one document.
    click.echo(json.dumps(document, ensure_ascii=False) if output == "json" else overview.event_text(event))
