"""`heliostat apply`: let the daemon follow the commit of a plan, if the plan still holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reconciler.cli.client import Daemon, connection
from specs.planned import FORMAT

PATIENCE = 120.0
"""Seconds: the daemon may have to fetch the commit."""


@click.command()
@click.argument("plan", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--release", is_flag=True, help="Follow the branch again.")
@connection
def apply(plan: Path | None, release: bool, daemon: Daemon) -> None:
    """Let the daemon follow the commit of PLAN (of `plan --server URL --out PLAN`) instead of its branch.

    Refused when anything that the plan rests on has moved since. It ends by itself as soon as the branch contains
    the commit.
    """
    if release == (plan is not None):
        raise click.UsageError("give a plan, or --release")
    if plan is None:
        answer = daemon.post("/release", {}, PATIENCE)
        click.echo(f"the branch is followed again; commit {answer['commit'][:12]} was")
        return
    body = _read(plan)
    daemon.post("/apply", body, PATIENCE)
    click.echo(f"commit {body['commit'][:12]} is followed until the branch contains it")


def _read(plan: Path) -> dict[str, Any]:
    try:
        given = json.loads(plan.read_text())
    except ValueError as error:
        raise click.ClickException(f"{plan} is no plan: {error}") from error
    if not isinstance(given, dict) or (given.get("kind"), given.get("version")) != ("Plan", FORMAT):
        raise click.ClickException(f"{plan} is no plan of version {FORMAT}")
    prediction = given.get("prediction") or {}
    if not prediction.get("live"):
        raise click.ClickException(f"{plan} was made for no live state: make it with --server")
    if not prediction.get("isComplete"):
        raise click.ClickException(f"{plan} was made while the daemon did not see the whole cluster: make it anew")
    if given.get("errors"):
        raise click.ClickException(f"{plan} has mistakes in its files: mend them first")
    return {"base": given["base"]["sha"], "commit": given["head"]["sha"], "live": prediction["live"]}
