"""Safetensors files made on the spot, byte by byte, so that no library under test has a hand in them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, of the dtypes that both safetensors and torch know."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a tensor looks like; its bytes come from the file's seed."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count * BITS[self.dtype] // 8


def content_of(kind: Kind, source: random.Random) -> bytes:
    """Random bytes; booleans are 0 or 1, for anything else is no boolean."""
    content = source.randbytes(kind.size)
    return bytes(byte & 1 for byte in content) if kind.dtype == "BOOL" else content


def write_file(
    path: Path, tensors: Mapping[str, Kind], *, seed: int = 0, metadata: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """Write the tensors in the given order and return the bytes of each."""
    source = random.Random(seed)
    contents = {name: content_of(kind, source) for name, kind in tensors.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    at = 0
    for name, kind in tensors.items():
        header[name] = {"dtype": kind.dtype, "shape": list(kind.shape), "data_offsets": [at, at + kind.size]}
        at += kind.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(contents.values())
    return contents


def write_index(folder: Path, shards: Sequence[Mapping[str, Kind]], *, seed: int = 0) -> tuple[Path, dict[str, bytes]]:
    """Write shards and the index over them; return the index's path and the bytes of every tensor."""
    contents: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        contents |= write_file(folder / name, shard, seed=seed + number)
        places |= dict.fromkeys(shard, name)
    total = sum(len(content) for content in contents.values())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return index, contents


def many_dtypes() -> dict[str, Kind]:
    """One small tensor of each dtype, scalars and empty ones among them."""
    ordered = sorted(BITS, key=lambda dtype: -BITS[dtype])
    kinds = {f"of.{dtype.lower()}": Kind(dtype=dtype, shape=(3, 5, 7)) for dtype in ordered}
    return {
        **kinds,
        "scalar": Kind(dtype="U8", shape=()),
        "empty": Kind(dtype="U8", shape=(0, 4)),
        "with spaces/and ünïcode": Kind(dtype="U8", shape=(9,)),
    }


def many_small(count: int, *, seed: int = 0) -> dict[str, Kind]:
    """Thousands of small tensors, as fine-tuned adapters and mixtures of experts have."""
    source = random.Random(seed)
    return {
        f"layers.{number // 8}.part.{number % 8}": Kind(
            dtype=source.choice(["F32", "F16", "BF16"]), shape=(source.randint(1, 64), source.randint(1, 64))
        )
        for number in range(count)
    }


def transformer(*, layers: int, width: int, dtype: str = "BF16", vocabulary: int = 4096) -> dict[str, Kind]:
    """The shapes of a small decoder, large tensors and small ones mixed."""
    kinds = {"embed.weight": Kind(dtype=dtype, shape=(vocabulary, width))}
    for layer in range(layers):
        at = f"layers.{layer}"
        for name in ("q", "k", "v", "o"):
            kinds[f"{at}.attention.{name}.weight"] = Kind(dtype=dtype, shape=(width, width))
        kinds[f"{at}.up.weight"] = Kind(dtype=dtype, shape=(4 * width, width))
        kinds[f"{at}.down.weight"] = Kind(dtype=dtype, shape=(width, 4 * width))
        kinds[f"{at}.norm.weight"] = Kind(dtype=dtype, shape=(width,))
    return kinds


def big(size: int) -> dict[str, Kind]:
    """About `size` bytes in tensors of at most 64 MiB."""
    piece = min(64 << 20, size)
    kinds = {f"block.{number}": Kind(dtype="F16", shape=(piece // 2048, 1024)) for number in range(size // piece)}
    rest = size % piece
    return kinds | ({"rest": Kind(dtype="U8", shape=(rest,))} if rest else {})
