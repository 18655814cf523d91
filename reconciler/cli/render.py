"""`heliostat render`: services as they are once bases are merged and variables put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from reconciler.cli.validate import read_paths
from specs.masking import masked
from specs.parse import Specs
from specs.rendered import rendered


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--service", "names", multiple=True, help="Only this one; may be given several times.")
@click.option("--defaults", is_flag=True, help="With every field that the specs leave to its default.")
@click.option("--show-secrets", is_flag=True, help="With the values of env_vars and of fields that sound like secrets.")
def render(paths: tuple[Path, ...], names: tuple[str, ...], defaults: bool, show_secrets: bool) -> None:
    """Print the services of PATHS, files or folders, as YAML: what the daemon takes them for.

    Bases are merged and variables put in. Problems go to stderr, and then the exit code is 1.
    """
    found, errors = read_paths(paths)
    documents = [document for specs in found for document in _documents(specs, names, defaults=defaults)]
    shown = documents if show_secrets else [masked(document) for document in documents]
    click.echo(yaml.safe_dump_all(shown, sort_keys=False, allow_unicode=True, width=120), nl=False)
    for error in errors:
        click.echo(str(error), err=True)
    missing = sorted(set(names) - {document["metadata"]["name"] for document in documents})
    if missing:
        click.echo(f"no valid service called {', '.join(missing)} here", err=True)
    if errors or missing:
        raise click.exceptions.Exit(1)


def _documents(specs: Specs, names: tuple[str, ...], *, defaults: bool) -> list[dict[str, Any]]:
    models = [model for name, model in sorted(specs.written.items()) if not names or name in names]
    return [rendered(model, with_defaults=defaults) for model in models]
