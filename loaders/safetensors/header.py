"""The header of a safetensors file, judged strictly and before anything is allocated for it.

The layout: eight bytes, little endian, say how long the header is; then the header, a JSON object; then the tensors'
bytes. Rules are those of the format plus what other readers let pass and this one does not: duplicate keys, unknown
fields, and NUL in a name (two readers of one such file may see different tensors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from loaders.safetensors.dtypes import BITS
from loaders.safetensors.errors import InvalidFile

PREFIX_BYTES = 8
MOST_HEADER_BYTES = 100_000_000
"""The format's own limit: a hostile length must not make a reader fetch or allocate more."""
MOST_COUNT = 2**63 - 1
"""Elements and bytes are counted in 64 bits, signed, by everything that reads tensors."""
METADATA = "__metadata__"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One tensor of a file; `start` and `stop` are offsets in the whole file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything the header says. Tensors are in the order of their bytes, which they cover without gaps."""

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    data_start: int
    size: int


def header_span(prefix: bytes, size: int, uri: str) -> tuple[int, int]:
    """Return the byte range of the JSON text, given the first eight bytes and the file's size."""
    if size < PREFIX_BYTES or len(prefix) < PREFIX_BYTES:
        raise InvalidFile(f"a safetensors file begins with eight bytes of length; this one has {size} in all", uri=uri)
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > MOST_HEADER_BYTES:
        raise InvalidFile(f"the header would be {length} bytes, more than the format allows", uri=uri, span=(0, 8))
    if length > size - PREFIX_BYTES:
        raise InvalidFile(
            f"the header would be {length} bytes, past the end of the file ({size})", uri=uri, span=(0, 8)
        )
    return PREFIX_BYTES, PREFIX_BYTES + length


def parse_header(text: bytes, size: int, uri: str) -> Header:
    """Judge the JSON text of a file of `size` bytes; raise `InvalidFile` at the first rule it breaks."""
    data_start = PREFIX_BYTES + len(text)
    entries = _read_json(text, uri)
    metadata = _metadata(entries.pop(METADATA, {}), uri)
    tensors = [_tensor(name, entry, data_start, uri) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _check_cover(tensors, data_start, size, uri)
    return Header(tensors=tuple(tensors), metadata=metadata, data_start=data_start, size=size)


def _read_json(text: bytes, uri: str) -> dict[str, Any]:
    span = (PREFIX_BYTES, PREFIX_BYTES + len(text))
    if not text.startswith(b"{"):
        raise InvalidFile("the header does not start with '{'", uri=uri, span=span)
    try:
        found = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"the header is not valid JSON: {error}", uri=uri, span=span) from error
    if not isinstance(found, dict):
        raise InvalidFile("the header is no JSON object", uri=uri, span=span)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {double!r} stands there twice")
    return found


def _whole_number(text: str) -> int:
    if text.startswith("-"):
        raise ValueError(f"{text} is negative")
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no whole number")


def _metadata(found: object, uri: str) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidFile(f"{METADATA} must map text to text", uri=uri)
    for key, value in found.items():
        _check_text(key + value, METADATA, uri)
    return found


def _check_text(text: str, name: str, uri: str) -> None:
    """A lone surrogate is no text: it cannot be written back."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidFile("half of a surrogate pair in the header", uri=uri, tensor=ascii(name)) from error


def _tensor(name: str, entry: object, data_start: int, uri: str) -> TensorSpec:
    _check_text(name, name, uri)
    if "\0" in name:
        raise InvalidFile("a name with NUL in it", uri=uri, tensor=name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidFile("an entry must have dtype, shape and data_offsets, and nothing else", uri=uri, tensor=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InvalidFile(f"unknown dtype {dtype!r}", uri=uri, tensor=name)
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise InvalidFile("shape and data_offsets must be lists of whole numbers", uri=uri, tensor=name)
    start, stop = (data_start + offset for offset in offsets)
    _check_size(dtype, shape, (start, stop), name, uri)
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape), start=start, stop=stop)


def _whole_numbers(found: object) -> bool:
    return isinstance(found, list) and all(type(item) is int for item in found)


def _check_size(dtype: str, shape: list[int], span: tuple[int, int], name: str, uri: str) -> None:
    count = 1
    for length in shape:
        count *= max(1, length)
        if count > MOST_COUNT // BITS[dtype]:
            raise InvalidFile(f"shape {shape} overflows 64 bits", uri=uri, tensor=name)
    bits = (0 if 0 in shape else count) * BITS[dtype]
    if bits % 8:
        raise InvalidFile(f"shape {shape} of {dtype} does not end on a whole byte", uri=uri, tensor=name)
    if span[1] - span[0] != bits // 8:
        problem = f"shape {shape} of {dtype} takes {bits // 8} bytes, data_offsets give {span[1] - span[0]}"
        raise InvalidFile(problem, uri=uri, tensor=name, span=span)


def _check_cover(tensors: list[TensorSpec], data_start: int, size: int, uri: str) -> None:
    at = data_start
    for tensor in tensors:
        if tensor.start != at:
            kind = "overlaps the tensor before it" if tensor.start < at else "leaves a gap before it"
            span = (tensor.start, tensor.stop)
            raise InvalidFile(f"its range {kind} (which ends at {at})", uri=uri, tensor=tensor.name, span=span)
        at = tensor.stop
    if at != size:
        kind = "the file is cut short" if at > size else "bytes are left over"
        raise InvalidFile(f"{kind}: tensors end at {at}, the file at {size}", uri=uri)
