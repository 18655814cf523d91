"""The dtypes of the safetensors format."""

from __future__ import annotations

BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element. Those below eight are packed, and a tensor of them must still end on a whole byte."""


def item_bytes(dtype: str) -> int:
    """Return how many bytes one element takes; packed ones count as single bytes."""
    return max(1, BITS[dtype] // 8)
