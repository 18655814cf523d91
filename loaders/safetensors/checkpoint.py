"""What a URI stands for: one file, a folder, or an index; every header read and judged before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.errors import InvalidFile, SourceFailed, SourceMissing
from loaders.safetensors.header import PREFIX_BYTES, Header, TensorSpec, header_span, parse_header
from loaders.safetensors.index import MOST_INDEX_BYTES, SUFFIX, check_index, parse_index
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.opening import Origin, local_path, open_source

HEADERS_AT_A_TIME = 16
USUAL_INDEX, USUAL_FILE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Open files and their headers. Close it in the end."""

    uri: str
    sources: tuple[Source, ...]
    headers: tuple[Header, ...]

    @property
    def tensors(self) -> list[tuple[int, TensorSpec]]:
        """Every tensor with its file's number, in the order of their bytes."""
        return [(number, tensor) for number, header in enumerate(self.headers) for tensor in header.tensors]

    def close(self) -> None:
        """Close all files."""
        for source in self.sources:
            source.close()


def open_checkpoint(uri: str, origin: Origin, interrupt: Interrupt) -> Checkpoint:
    """Open everything that the URI stands for; raise a `LoadError` if any of it is not as it should be."""
    uri = _inside_folder(uri, interrupt, origin)
    if not _names_index(uri):
        return _open_files(uri, [uri], origin, interrupt)
    places = parse_index(_content(uri, origin, interrupt), uri)
    files = sorted(set(places.values()))
    checkpoint = _open_files(uri, [beside(uri, file) for file in files], origin, interrupt)
    try:
        check_index(places, files, checkpoint.headers, uri)
    except InvalidFile:
        checkpoint.close()
        raise
    return checkpoint


def _names_index(uri: str) -> bool:
    """Only a URI has a query or a fragment: a path may have any letter in its names."""
    path = local_path(uri)
    return (urlsplit(uri).path if path is None else path).endswith(SUFFIX)


def beside(uri: str, file: str) -> str:
    """Return the URI of a file in the same folder; what signs the first (a query) goes along."""
    if "://" not in uri:
        return os.path.join(os.path.dirname(uri), file)
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + file))


def _inside_folder(uri: str, interrupt: Interrupt, origin: Origin) -> str:
    """Return the index or the only file of a folder; any other URI as it is."""
    path = local_path(uri)
    if path is None:
        return _inside_remote_folder(uri, interrupt, origin) if urlsplit(uri).path.endswith("/") else uri
    if not os.path.isdir(path):
        return path
    names = sorted(os.listdir(path))
    for suffix, usual in ((SUFFIX, USUAL_INDEX), (".safetensors", USUAL_FILE)):
        found = [name for name in names if name.endswith(suffix)]
        if usual in found or len(found) == 1:
            return os.path.join(path, usual if usual in found else found[0])
        if found:
            raise SourceFailed(f"the folder has {len(found)} files *{suffix}; name one of them", uri=uri)
    raise SourceFailed("the folder has no *.safetensors", uri=uri)


def _inside_remote_folder(uri: str, interrupt: Interrupt, origin: Origin) -> str:
    """A folder of an origin is not listed but tried: not every origin can list, or lets everyone."""
    try:
        open_source(beside(uri, USUAL_INDEX), origin, interrupt).close()
    except SourceMissing:  # anything else says nothing about whether there is an index
        return beside(uri, USUAL_FILE)
    return beside(uri, USUAL_INDEX)


def _content(uri: str, origin: Origin, interrupt: Interrupt) -> bytes:
    source = open_source(uri, origin, interrupt)
    try:
        if source.size > MOST_INDEX_BYTES:
            raise InvalidFile(f"an index of {source.size} bytes", uri=uri)
        if isinstance(source, ReadThrough):
            source.expect([(0, source.size)])
        return _read(source, 0, source.size, interrupt)
    finally:
        source.close()


def _read(source: Source, start: int, stop: int, interrupt: Interrupt) -> bytes:
    buffer = bytearray(stop - start)
    source.read_into(start, memoryview(buffer), interrupt)
    return bytes(buffer)


def _open_files(uri: str, files: Sequence[str], origin: Origin, interrupt: Interrupt) -> Checkpoint:
    opened: list[Source] = []

    def open_one(file: str) -> tuple[Source, Header]:
        source = open_source(file, origin, interrupt)
        opened.append(source)
        return source, read_header(source, interrupt)

    try:
        if len(files) == 1:
            found = [open_one(files[0])]
        else:
            with ThreadPoolExecutor(min(HEADERS_AT_A_TIME, len(files))) as pool:
                found = list(pool.map(open_one, files))
    except BaseException:
        for source in opened:
            source.close()
        raise
    return Checkpoint(uri=uri, sources=tuple(s for s, _ in found), headers=tuple(h for _, h in found))


def read_header(source: Source, interrupt: Interrupt) -> Header:
    """Read and judge one file's header."""
    prefix = _read(source, 0, min(PREFIX_BYTES, source.size), interrupt)
    start, stop = header_span(prefix, source.size, source.uri)
    return parse_header(_read(source, start, stop, interrupt), source.size, source.uri)
