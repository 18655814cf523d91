"""`heliostat plan`: what a change would do, from the commits of a checkout."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reconciler.adapters.git_checkout import Checkout
from reconciler.adapters.git_location import clean_path
from reconciler.api.documents import plan_document
from reconciler.cli.plan_markdown import markdown
from reconciler.cli.plan_text import text
from reconciler.cli.replies import as_json
from reconciler.errors import PortError
from reconciler.planning.changes import changes
from specs.planned import PlannedChange

CHANGES = 2
"""The exit code of --detailed-exitcode when there is something to do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for."""

    base: str | None
    head: str
    path: str
    repo: Path
    form: str
    out: Path | None
    title: str
    detailed_exitcode: bool
    server: str | None
    token: str | None


@click.command()
@click.option("--base", metavar="REV", help="What is compared with. Default: where HEAD left the main branch.")
@click.option("--head", metavar="REV", default="HEAD", show_default=True, help="The commit that would be merged.")
@click.option("--path", default="", metavar="FOLDER", help="The folder with the specs, as the daemon's --path.")
@click.option(
    "--repo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="A folder of the checkout. Default: the current one.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="For people, for scripts, or for the comment of a pull request.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON form to this file too.")
@click.option("--title", default="", help="What tells this plan from others in one pull request, such as a cluster.")
@click.option("--server", metavar="URL", help="Ask this daemon how it would go on the live cluster.")
@click.option("--token", envvar="HELIOSTAT_TOKEN", help="The daemon's token; found by itself on its machine.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there is something to do.")
def plan(**chosen: Any) -> None:
    """Say what merging HEAD into BASE would do: nothing but commits is read, and nothing is changed.

    + created, - removed, -/+ replaced by a new revision, ~ changed in place, ! kept, for its file is wrong.

    Exits with 0, or with 1 when something is wrong with the files of HEAD; with --detailed-exitcode 2 means
    that there is something to do.
    """
    options = Options(**chosen)
    change = offline(options) if options.server is None else _of_daemon(options, options.server)
    document = as_json(plan_document(change))
    if options.out is not None:
        options.out.write_text(document + "\n")
    match options.form:
        case "json":
            click.echo(document)
        case "markdown":
            click.echo(markdown(change, options.title), nl=False)
        case _:
            click.echo(text(change))
    if change.errors:
        raise click.exceptions.Exit(1)
    if options.detailed_exitcode and not change.is_empty:
        raise click.exceptions.Exit(CHANGES)


def offline(options: Options) -> PlannedChange:
    """Return what differs between two commits of a checkout."""
    try:
        with closing(Checkout(options.repo, clean_path(options.path))) as checkout:
            head = checkout.commit(options.head)
            base = checkout.commit(options.base) if options.base is not None else checkout.fork_of(head)
            before, after = checkout.specs(base), checkout.specs(head)
            return changes(before, after, checkout.packaged)
    except PortError as error:
        raise click.ClickException(error.reason) from error


def _of_daemon(options: Options, server: str) -> PlannedChange:
    """Return what a daemon says of the head: compared with the commit that it holds to, and how it would go."""
    if options.base is not None:
        raise click.UsageError("--server compares with the commit that the daemon has: leave out --base")
    from reconciler.cli.plan_live import live  # An HTTP client is a fifth of a second: builds plan offline.

    try:
        with closing(Checkout(options.repo, clean_path(options.path))) as checkout:
            return live(checkout, checkout.commit(options.head), server, options.token)
    except PortError as error:
        raise click.ClickException(error.reason) from error
