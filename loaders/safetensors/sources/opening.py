"""From a URI to a source."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from loaders.safetensors.errors import SourceFailed
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.http import HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.local import LocalFile

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "az", "abfs", "abfss", "azure", "https"})


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How to open what a URI names: the store's region, and which cache is asked first (`None`: no cache)."""

    region: str | None = None
    cache: str | None = None


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case; empty for a path."""
    head, mark, _ = uri.partition("://")
    return head.lower() if mark else ""


def local_path(uri: str) -> str | None:
    """Return the path if the URI names something on this machine."""
    scheme = scheme_of(uri)
    if scheme == "file":
        return unquote(urlsplit(uri).path)
    return uri if not scheme else None


def open_source(uri: str, origin: Origin, interrupt: Interrupt) -> Source:
    """Open one object. The node's cache is asked first where `origin.cache` says so and the object is remote."""
    path = local_path(uri)
    if path is not None:
        return LocalFile(path)
    if origin.cache == "node":
        from loaders.safetensors.cache import through_cache

        return through_cache(uri, lambda: _open_remote(uri, origin, interrupt), interrupt)
    return _open_remote(uri, origin, interrupt)


def _open_remote(uri: str, origin: Origin, interrupt: Interrupt) -> Source:
    scheme = scheme_of(uri)
    if scheme == "http":
        return HttpFile(uri, interrupt)
    if scheme in OBJECT_STORES:
        from loaders.safetensors.sources.objects import open_object

        return open_object(uri, origin.region, interrupt)
    raise SourceFailed(f"nothing here reads {scheme}://; file, http, https, s3, gs and az are known", uri=uri)
