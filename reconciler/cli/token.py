"""`heliostat token`: further tokens of the API, with names and roles."""

from __future__ import annotations

import os
from pathlib import Path

import click

from reconciler.adapters import state_folder
from reconciler.adapters.api_tokens import TokenFile
from reconciler.adapters.clock import SystemClock
from reconciler.errors import Stalled
from reconciler.grants import Role


@click.group()
@click.option(
    "--state", envvar="HELIOSTAT_STATE", metavar="FOLDER", help="The daemon's state folder.  [default: as `run`]"
)
@click.pass_context
def token(context: click.Context, state: str | None) -> None:
    """Make, list and revoke tokens of the API.

    They are kept in the daemon's state folder, as hashes; a running daemon knows of a change at once.
    """
    folder = Path(state).expanduser() if state else state_folder.default_folder(os.environ)
    if not folder.is_dir():
        raise click.UsageError(f"there is no state folder {folder}: give --state as to `heliostat run`")
    context.obj = TokenFile(folder)


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it opens.")
@click.pass_obj
def make(tokens: TokenFile, name: str, role: str) -> None:
    """Make a token called NAME and print it; it cannot be shown again."""
    if not name.isprintable() or not 1 <= len(name) <= 60:
        raise click.UsageError("NAME is a word or two of at most 60 characters: whose token it is")
    try:
        click.echo(tokens.make(name, Role(role), SystemClock().now()))
    except Stalled as error:
        raise click.ClickException(error.reason) from error


@token.command("list")
@click.pass_obj
def list_(tokens: TokenFile) -> None:
    """List the tokens: id, role, day, name."""
    try:
        for entry in tokens.all():
            click.echo(f"{entry.id}  {entry.role:<8} {entry.created_at:%Y-%m-%d}  {entry.name}")
    except Stalled as error:
        raise click.ClickException(error.reason) from error


@token.command()
@click.argument("name")
@click.pass_obj
def revoke(tokens: TokenFile, name: str) -> None:
    """Take the token called NAME (or with this id) away."""
    try:
        tokens.revoke(name)
    except Stalled as error:
        raise click.ClickException(error.reason) from error
