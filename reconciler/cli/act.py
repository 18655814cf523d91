"""The acting verbs. Each asks the daemon and returns at once; `heliostat wait` waits for what it leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reconciler.cli.client import Daemon, caller, connection, output_option, segment
from reconciler.cli.replies import as_json
from specs.commands import Verb

SAID = {
    Verb.PROMOTE: "promoted",
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.ABORT: "aborting",
    Verb.RETRY: "trying again",
    Verb.ROLLBACK: "going back",
}

Acting = Callable[..., None]


def acting(act: Acting) -> Acting:
    """Give a verb what all of them take: the service, who acts and why, the kind of output, and the daemon."""
    by = click.option("--by", default=None, help="Who acts, for events and history.  [default: USER@HOST]")
    why = click.option("--why", "-m", default="", help="Why, for events and history.")
    return click.argument("service")(by(why(output_option(connection(act)))))


@click.command()
@click.option("--full", is_flag=True, help="Skip all the steps that are left.")
@acting
def promote(service: str, full: bool, daemon: Daemon, **rest: Any) -> None:
    """End the current pause of SERVICE's rollout, exactly one step; with --full, go straight to 100%."""
    _ask(daemon, Verb.PROMOTE, service, {"full": True} if full else {}, **rest)


@click.command()
@acting
def pause(service: str, daemon: Daemon, **rest: Any) -> None:
    """Hold SERVICE's rollout where it is, until `resume`."""
    _ask(daemon, Verb.PAUSE, service, {}, **rest)


@click.command()
@acting
def resume(service: str, daemon: Daemon, **rest: Any) -> None:
    """Let SERVICE's paused rollout go on."""
    _ask(daemon, Verb.RESUME, service, {}, **rest)


@click.command()
@acting
def abort(service: str, daemon: Daemon, **rest: Any) -> None:
    """Go back to SERVICE's stable revision and quarantine the new one."""
    _ask(daemon, Verb.ABORT, service, {}, **rest)


@click.command()
@acting
def retry(service: str, daemon: Daemon, **rest: Any) -> None:
    """Try SERVICE's quarantined revision again, from its first step."""
    _ask(daemon, Verb.RETRY, service, {}, **rest)


@click.command()
@click.option("--to", metavar="REVISION", help="The revision to go back to.  [default: the last good one]")
@acting
def rollback(service: str, to: str | None, daemon: Daemon, **rest: Any) -> None:
    """Go back to an earlier revision of SERVICE; it stays until Git wants something else."""
    _ask(daemon, Verb.ROLLBACK, service, {"to": to} if to else {}, **rest)


def _ask(  # noqa: PLR0913 (the fields of one request)
    daemon: Daemon, verb: Verb, service: str, fields: dict[str, Any], *, by: str | None, why: str, output: str
) -> None:
    body = {"by": by or caller(), "why": why, **fields}
    answer = daemon.post(f"/services/{segment(service)}/{verb.value}", body)
    if output == "json":
        click.echo(as_json(answer))
    else:
        click.echo(f"{service}: {SAID[verb]} (event {answer['event']})")
        click.echo(f"follow it with: heliostat status {service} --watch", err=True)
