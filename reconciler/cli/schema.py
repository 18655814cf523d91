"""`heliostat schema`: JSON Schema for editors."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("kind", required=False, type=click.Choice(["service", "clusterpolicy"], case_sensitive=False))
def schema(kind: str | None) -> None:
    """Print the JSON Schema of spec files, for editors.

    With KIND only that of a Service or a ClusterPolicy. Point an editor at the saved output, for instance with a
    first line `# yaml-language-server: $schema=heliostat.schema.json`.
    """
    from specs.json_schema import json_schema

    click.echo(json.dumps(json_schema(kind), indent=2))
