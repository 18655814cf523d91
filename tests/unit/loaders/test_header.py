"""Headers: what the format allows is read, everything else is refused before anything is allocated."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import deserialize

from loaders.safetensors.dtypes import BITS
from loaders.safetensors.errors import InvalidFile
from loaders.safetensors.header import MOST_HEADER_BYTES, Header, header_span, parse_header


def file_of(header: bytes | dict[str, Any], data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read(content: bytes) -> Header:
    start, stop = header_span(content[:8], len(content), "weights")
    return parse_header(content[start:stop], len(content), "weights")


def accepted_by_reference(content: bytes) -> bool:
    try:
        deserialize(content)
    except Exception:
        return False
    return True


def accepted(content: bytes) -> bool:
    try:
        read(content)
    except InvalidFile:
        return False
    return True


def entry(*, dtype: object = "U8", shape: object = (1,), offsets: object = (0, 1), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


ONE = entry()
MALFORMED = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "header past the end": struct.pack("<Q", 10) + b"{}",
    "header of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "header of nothing": struct.pack("<Q", 0),
    "longer than allowed": struct.pack("<Q", MOST_HEADER_BYTES + 1) + b"{}",
    "no object": file_of(b"[]"),
    "text after it": file_of(b"{} x"),
    "no utf-8": file_of(b'{"\xff": 1}'),
    "half a surrogate": file_of(b'{"a\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "deep": file_of(b'{"a":' + b"[" * 100_000),
    "NaN": file_of(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"),
    "minus zero": file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', b"x"),
    "float": file_of(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', b"x"),
    "exponent": file_of(b'{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"x"),
    "true for 1": file_of({"a": entry(shape=[True])}, b"x"),
    "number of 5000 digits": file_of(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"x"),
    "negative offset": file_of({"a": entry(offsets=[-1, 0])}, b"x"),
    "backwards": file_of({"a": entry(shape=[0], offsets=[1, 0])}, b"x"),
    "three offsets": file_of({"a": entry(offsets=[0, 1, 2])}, b"xx"),
    "no dtype": file_of({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "unknown dtype": file_of({"a": entry(dtype="U9")}, b"x"),
    "lower case dtype": file_of({"a": entry(dtype="u8")}, b"x"),
    "dtype null": file_of({"a": entry(dtype=None)}, b"x"),
    "shape too small": file_of({"a": entry(shape=[1], offsets=[0, 2])}, b"xx"),
    "shape too large": file_of({"a": entry(shape=[3], offsets=[0, 2])}, b"xx"),
    "shape overflows": file_of({"a": entry(shape=[2**40, 2**40], offsets=[0, 0])}),
    "shape overflows to a fit": file_of({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}),
    "bits overflow": file_of({"a": entry(dtype="F64", shape=[2**61], offsets=[0, 0])}),
    "half a byte": file_of({"a": entry(dtype="F4", shape=[3], offsets=[0, 2])}, b"xx"),
    "gap": file_of({"a": ONE, "b": entry(offsets=[2, 3])}, b"xxx"),
    "overlap": file_of({"a": entry(shape=[2], offsets=[0, 2]), "b": entry(offsets=[1, 2])}, b"xx"),
    "twice the same bytes": file_of({"a": ONE, "b": ONE}, b"x"),
    "not from the beginning": file_of({"a": entry(offsets=[1, 2])}, b"xx"),
    "cut short": file_of({"a": entry(shape=[4], offsets=[0, 4])}, b"xxx"),
    "trailing byte": file_of({"a": ONE}, b"xy"),
    "trailing byte after nothing": file_of({}, b"x"),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata nested": file_of({"__metadata__": {"a": {"b": "c"}}}),
    "metadata a list": file_of({"__metadata__": []}),
}
STRICTER = {
    "entry a list": file_of({"a": ["U8", [1], [0, 1]]}, b"x"),
    "blank first": file_of(b" {}"),
    "the same name twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "a field twice": file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "metadata twice": file_of(b'{"__metadata__":{"k":"a","k":"b"}}'),
    "an unknown field": file_of({"a": entry(more=1)}, b"x"),
    "NUL in a name": file_of({"a\0b": ONE}, b"x"),
    "metadata null": file_of({"__metadata__": None}),
    "huge but empty": file_of({"a": entry(shape=[0, 2**40, 2**40], offsets=[0, 0])}),
}


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_what_the_reference_refuses_is_refused(name: str) -> None:
    assert not accepted_by_reference(MALFORMED[name])
    with pytest.raises(InvalidFile, match="weights"):
        read(MALFORMED[name])


@pytest.mark.parametrize("name", sorted(STRICTER))
def test_what_two_readers_may_read_differently_is_refused(name: str) -> None:
    with pytest.raises(InvalidFile):
        read(STRICTER[name])


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_of_the_format_is_read(dtype: str) -> None:
    content = file_of({"a": entry(dtype=dtype, shape=[2, 4], offsets=[0, BITS[dtype]])}, bytes(BITS[dtype]))
    assert accepted_by_reference(content)
    (tensor,) = read(content).tensors
    assert (tensor.dtype, tensor.shape, tensor.stop - tensor.start) == (dtype, (2, 4), BITS[dtype])


def test_empty_tensors_scalars_padding_and_metadata_are_read() -> None:
    header = {
        "__metadata__": {"format": "pt"}, "b": entry(shape=[], offsets=[0, 1]),
        "a": entry(shape=[0, 3], offsets=[1, 1]), "ü": entry(offsets=[1, 2]),
    }  # fmt: skip
    content = file_of(json.dumps(header).encode() + b"   \n", b"xy")
    assert accepted_by_reference(content)
    found = read(content)
    assert [tensor.name for tensor in found.tensors] == ["b", "a", "ü"]
    assert found.metadata == {"format": "pt"}
    assert found.tensors[-1].stop == len(content)


def test_an_error_names_file_tensor_and_bytes() -> None:
    content = file_of({"layer.w": entry(shape=[3], offsets=[0, 2])}, b"xx")
    with pytest.raises(InvalidFile) as caught:
        read(content)
    start = len(content) - 2
    assert str(caught.value) == (
        f"weights, tensor 'layer.w', bytes {start}-{start + 2}: shape [3] of U8 takes 3 bytes, data_offsets give 2"
    )


numbers = (
    st.integers(-2, 12) | st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 2**64 + 1]) | st.floats() | st.none()
)
names = st.text(max_size=3) | st.sampled_from(["a", "b", "__metadata__"])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "X"]),
        "shape": st.lists(st.integers(0, 4), max_size=3) | st.lists(numbers, max_size=3),
        "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2) | st.lists(numbers, max_size=3),
    }
)
headers = st.dictionaries(
    names, entries | st.dictionaries(names, st.text(max_size=2) | numbers, max_size=2), max_size=3
)


@given(header=headers, size=st.integers(0, 24))
@example(header={"a": entry(shape=[4], offsets=[0, 4]), "b": entry(dtype="F32", shape=[], offsets=[4, 8])}, size=8)
def test_never_less_strict_than_the_reference_on_made_up_headers(header: dict[str, Any], size: int) -> None:
    content = file_of(header, bytes(size))
    assert not accepted(content) or accepted_by_reference(content)


VALID = file_of(
    {"__metadata__": {"k": "v"}, "a": entry(dtype="F16", shape=[2, 2], offsets=[0, 8]), "b": entry(offsets=[8, 9])},
    bytes(9),
)


@given(data=st.data())
def test_never_less_strict_than_the_reference_on_damaged_files(data: st.DataObject) -> None:
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change":
                content[at] = data.draw(st.integers(0, 255))
            case "remove":
                del content[at]
            case "insert":
                content.insert(at, data.draw(st.sampled_from(list(b'{}[]",:0123456789 -.eE\\u'))))
            case _:
                del content[at + 1 :]
    assert not accepted(bytes(content)) or accepted_by_reference(bytes(content))


@given(shapes=st.lists(st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 5), max_size=3)), max_size=6))
def test_every_well_formed_header_is_read_as_the_reference_reads_it(shapes: list[tuple[str, list[int]]]) -> None:
    header, at = {}, 0
    for number, (dtype, shape) in enumerate(shapes):
        bits = BITS[dtype]
        for length in shape:
            bits *= length
        if bits % 8:
            continue
        header[f"t{number}"] = entry(dtype=dtype, shape=shape, offsets=[at, at + bits // 8])
        at += bits // 8
    content = file_of(header, bytes(at))
    expected = {name: (found["dtype"], found["shape"]) for name, found in deserialize(content)}
    assert {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in read(content).tensors} == expected


def test_a_double_key_among_many_is_found_at_once() -> None:
    keys = ",".join(f'"t{number}":0' for number in range(100_000))
    text = ("{" + keys + ',"t99999":0}').encode()
    began = time.process_time()
    with pytest.raises(InvalidFile, match="'t99999' stands there twice"):
        parse_header(text, 8 + len(text), "w")
    assert time.process_time() - began < 10


def test_no_header_is_longer_than_the_format_allows_however_large_the_file() -> None:
    assert header_span(struct.pack("<Q", MOST_HEADER_BYTES), 1 << 40, "w") == (8, 8 + MOST_HEADER_BYTES)
    with pytest.raises(InvalidFile, match="more than the format allows"):
        header_span(struct.pack("<Q", MOST_HEADER_BYTES + 1), 1 << 40, "w")
