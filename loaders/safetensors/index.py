"""The index of a checkpoint in several files (`*.index.json`), judged as strictly as headers are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loaders.safetensors.errors import InvalidFile
from loaders.safetensors.header import Header

MOST_INDEX_BYTES = 100_000_000
SUFFIX = ".index.json"


def parse_index(text: bytes, uri: str) -> dict[str, str]:
    """Return which file has which tensor; raise `InvalidFile` for anything that is not exactly that."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"the index is not valid JSON: {error}", uri=uri) from error
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidFile("the index has no weight_map", uri=uri)
    for name, file in places.items():
        if not isinstance(file, str) or not _stays_inside(file):
            raise InvalidFile(f"its file {file!r} is no name below the index's folder", uri=uri, tensor=name)
    return places


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _stays_inside(file: str) -> bool:
    """Judged by its letters: what a server makes of `..`, `%2e` or `?` is not ours to guess."""
    plain = not any(letter in file for letter in '\\\0%?#:*"<>|') and file.isprintable()
    return plain and all(part not in ("", ".", "..") for part in file.split("/"))


def check_index(places: Mapping[str, str], files: Sequence[str], headers: Sequence[Header], uri: str) -> None:
    """Raise `InvalidFile` unless the index and its files' headers name the same tensors at the same places."""
    found = {tensor.name: file for file, header in zip(files, headers, strict=True) for tensor in header.tensors}
    count = sum(len(header.tensors) for header in headers)
    for name, file in places.items():
        if found.get(name) != file:
            raise InvalidFile(f"the index says it is in {file}, but {_where(found.get(name))}", uri=uri, tensor=name)
    if count != len(places):
        spare = sorted(found.keys() - places.keys())
        problem = "two files have it" if not spare else f"{found[spare[0]]} has it, but the index does not name it"
        raise InvalidFile(problem, uri=uri, tensor=spare[0] if spare else None)


def _where(file: str | None) -> str:
    return f"{file} has it" if file else "no file has it"
