"""`heliostat wait`: block until a service is where it should be; for scripts and CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import click

from reconciler.api.documents import document
from reconciler.cli import overview
from reconciler.cli.client import Daemon, DaemonError, connection, output_option, segment
from reconciler.cli.replies import as_json, read
from reconciler.cli.terminal import clean
from specs.durations import format_duration, parse_duration
from specs.status import Health, Phase, ServiceStatus, Sync

TIMED_OUT = 3
INTERVAL = 0.5

GOALS: dict[str, Callable[[ServiceStatus], bool]] = {
    "Healthy": lambda status: status.health is Health.HEALTHY,
    "Synced": lambda status: status.sync is Sync.SYNCED,
    "Paused": lambda status: status.phase is Phase.PAUSED,
    "Quarantined": lambda status: bool(status.quarantined),
}


class DurationType(click.ParamType[timedelta]):
    """A duration on the command line, such as `5m`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, or fail with how to write it."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("service")
@click.option("--for", "goal", type=click.Choice(list(GOALS), case_sensitive=False), required=True, help="For what.")
@click.option("--timeout", type=DurationType(), default="5m", show_default=True, help="Then give up with exit code 3.")
@click.option("--revision", metavar="PREFIX", help="Count only if this revision is the wanted one (or quarantined).")
@output_option
@connection
def wait(service: str, goal: str, timeout: timedelta, daemon: Daemon, **rest: str | None) -> None:
    """Wait until SERVICE is as wanted. A service or daemon that is not there yet is waited for, too."""
    give_up = time.monotonic() + timeout.total_seconds()
    last = ""
    while True:
        status, problem = _look(daemon, service)
        if status is not None and GOALS[goal](status) and _is_about(status, goal, rest["revision"]):
            _tell_reached(status, goal, str(rest["output"]))
            return
        now = f"{status.health.value}: {clean(status.message)}" if status else problem
        if now != last:
            click.echo(f"{service} {now}", err=True)
            last = now
        if time.monotonic() >= give_up:
            click.echo(f"{service} was not {goal} within {format_duration(timeout)}", err=True)
            raise SystemExit(TIMED_OUT)
        time.sleep(min(INTERVAL, max(0.0, give_up - time.monotonic())))


def _look(daemon: Daemon, service: str) -> tuple[ServiceStatus | None, str]:
    """Return the status, or why there is none yet. Raises what waiting does not mend."""
    try:
        return read(ServiceStatus, daemon.get(f"/services/{segment(service)}")), ""
    except DaemonError as error:
        if error.status not in (0, 404, 503):
            raise
        return None, error.message


def _is_about(status: ServiceStatus, goal: str, revision: str | None) -> bool:
    if revision is None:
        return True
    named = status.quarantined if goal == "Quarantined" else (status.target or "",)
    return any(name.startswith(revision) for name in named)


def _tell_reached(status: ServiceStatus, goal: str, output: str) -> None:
    if output == "json":
        click.echo(as_json(document(status)))
    else:
        click.echo(f"{status.name} is {goal}: {overview.message_line(status)}")
