"""`heliostat doctor`: look at the cluster and at this machine, and say how to mend what is wrong."""

from __future__ import annotations

import asyncio

import click

from reconciler.api.documents import document
from reconciler.cli.checks import Finding, Mark, examine
from reconciler.cli.client import output_option
from reconciler.cli.replies import as_json
from reconciler.cli.run import settings_from, settings_options
from reconciler.cli.terminal import clean, toned

SIGNS = {
    Mark.OK: ("ok", "good"),
    Mark.WARNING: ("warn", "warn"),
    Mark.FAILED: ("FAIL", "bad"),
    Mark.SKIPPED: ("-", "quiet"),
}


@click.command()
@settings_options
@output_option
def doctor(output: str, **flags: object) -> None:
    """Check the cluster and this machine; exit 1 when something would keep the daemon from working.

    Takes the same settings as `run`, and nothing is changed anywhere.
    """
    findings = asyncio.run(examine(settings_from(flags, needs_repo=False)))
    failed = [finding for finding in findings if finding.mark is Mark.FAILED]
    if output == "json":
        click.echo(as_json({"healthy": not failed, "findings": document(findings)}))
    else:
        click.echo("\n".join(_text(finding) for finding in findings))
    raise SystemExit(1 if failed else 0)


def _text(finding: Finding) -> str:
    sign, tone = SIGNS[finding.mark]
    line = f"{toned(f'{sign:<4}', tone)}  {finding.check:<14}  {clean(finding.text)}"
    return f"{line}\n{'':22}-> {clean(finding.mend)}" if finding.mend else line
