"""`heliostat cache`: what this node keeps of weights, and putting some there ahead of time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.cache_cluster import stage_on_cluster
from reconciler.cli.client import output_option
from reconciler.cli.replies import as_json
from reconciler.cli.terminal import clean, table
from reconciler.errors import Retry, Stalled
from specs.staging import command_line

if TYPE_CHECKING:
    from loaders.safetensors.cache_store import Kept, Store

GIB = 1 << 30
SHORTEST_KEY = 6
"""Fewer characters could name what nobody meant."""
STAMP = "%Y-%m-%dT%H:%M:%SZ"


@click.group()
def cache() -> None:
    """List, stage and remove the weights that this node keeps.

    The cache is the folder HELIOSTAT_CACHE_DIR (default ~/.cache/heliostat/weights) and holds at most
    HELIOSTAT_CACHE_BYTES (default half of its disk). Replicas read remote weights through it.
    """


@cache.command("ls")
@output_option
def list_kept(output: str) -> None:
    """Show what is kept, how much of it is there, and when it was last used."""
    store = _store()
    kept = store.kept()
    if output == "json":
        click.echo(as_json({"folder": str(store.folder), "cap": store.cap, "contents": [_document(x) for x in kept]}))
        return
    rows = [
        (each.content.key[:12], _size(each.content.size), _share(each), _used(each), clean(each.content.uri))
        for each in kept
    ]
    click.echo(table(("KEY", "SIZE", "HERE", "LAST USED", "URI"), rows, right=frozenset({1, 2})))
    room = sum(each.room for each in kept)
    click.echo(f"{_size(room)} of {_size(store.cap)} in {store.folder}", err=True)


@cache.command("stage")
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--region", help="The object store's region.")
@click.option("--timeout", type=float, help="Seconds for each URI; with --ray for all of them.")
@click.option("--ray", metavar="URL", help="Stage on the nodes of the cluster with this dashboard, not here.")
@click.option("--ray-token-file", type=click.Path(exists=True, dir_okay=False), help="File with that cluster's token.")
@click.option("--node", "nodes", multiple=True, metavar="ID", help="With --ray: only on this node (may be repeated).")
@click.option("--python", default="python", show_default=True, help="With --ray: the cluster's Python.")
def stage_weights(
    uris: Sequence[str], region: str | None, timeout: float | None, ray: str | None, **cluster: Any
) -> None:
    """Put weights into this node's cache: a .safetensors file, an *.index.json or a folder with either.

    With --ray a Ray job puts them into the caches of that cluster's nodes, which share what they fetch. The cluster's
    Python needs heliostat[loaders].
    """
    if ray is None:
        if cluster["nodes"] or cluster["ray_token_file"]:
            raise click.UsageError("--node and --ray-token-file go with --ray")
        _stage_here(uris, region, timeout)
        return
    within = None if timeout is None else timedelta(seconds=timeout)
    command = command_line(uris, cluster["nodes"], python=cluster["python"], timeout=within, region=region)
    _stage_there(ray, cluster["ray_token_file"], command)


def _stage_there(ray: str, token_file: str | None, command: str) -> None:
    token = Path(token_file).read_text().strip() if token_file else os.environ.get("HELIOSTAT_RAY_TOKEN")
    try:
        failed = asyncio.run(stage_on_cluster(ray, token, command, _tell))
    except (Retry, Stalled) as error:
        raise click.ClickException(str(error)) from None
    if failed is not None:
        raise click.ClickException(clean(failed))


def _tell(node: Mapping[str, Any]) -> None:
    staged = node["staged"]
    if staged is not None:
        fetched = f"{_size(staged['fetched'])} fetched in {staged['seconds']:.1f} s"
        click.echo(f"{node['node'][:12]}  {_size(staged['size'])}, {fetched}", err=True)


def _stage_here(uris: Sequence[str], region: str | None, timeout: float | None) -> None:
    _store()
    from loaders.safetensors.errors import LoadError, shown
    from loaders.safetensors.stage_here import stage_here

    for uri in uris:
        try:
            staged = stage_here(uri, region, timeout)
        except LoadError as error:
            raise click.ClickException(clean(str(error))) from None
        fetched = f"{_size(staged.fetched)} fetched" if staged.fetched else "all of it was here"
        click.echo(f"{clean(shown(uri))}: {_size(staged.size)}, {fetched}, {staged.seconds:.1f} s", err=True)


@cache.command("rm")
@click.argument("names", nargs=-1, metavar="KEY|URI...")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
def remove(names: Sequence[str], everything: bool) -> None:
    """Remove what is kept under a key (its beginning is enough) or a URI. What a process reads stays."""
    if bool(names) == everything:
        raise click.UsageError("name what to remove, or say --all")
    store = _store()
    chosen: list[Kept] = []
    kept = store.kept()
    for name in names:
        found = [each for each in kept if _named(each, name)]
        if not found:
            raise click.ClickException(f"nothing is kept under {clean(name)}; `heliostat cache ls` shows what is")
        chosen += found
    refused = [each for each in (kept if everything else chosen) if not store.remove(each.content.key)]
    if refused:
        names_in_use = ", ".join(clean(each.content.uri) for each in refused)
        raise click.ClickException(f"in use, and kept: {names_in_use}")


def _store() -> Store:
    try:
        from loaders.safetensors.cache_settings import cache_settings
        from loaders.safetensors.cache_store import Store
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install heliostat[loaders]") from None
    try:
        settings = cache_settings()
        return Store(settings.folder, settings.cap)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the weight cache cannot be used: {error}") from None


def _named(kept: Kept, name: str) -> bool:
    return kept.content.uri == name or (len(name) >= SHORTEST_KEY and kept.content.key.startswith(name))


def _document(kept: Kept) -> dict[str, object]:
    return {
        "key": kept.content.key,
        "uri": kept.content.uri,
        "etag": kept.content.etag,
        "size": kept.content.size,
        "present": kept.present,
        "lastUsed": datetime.fromtimestamp(kept.used, UTC).strftime(STAMP),
        "inUse": kept.in_use,
    }


def _used(kept: Kept) -> str:
    return "now" if kept.in_use else datetime.fromtimestamp(kept.used, UTC).strftime(STAMP)


def _share(kept: Kept) -> str:
    return f"{100 * kept.present // kept.content.size}%" if kept.content.size else "100%"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.1f} MiB"
