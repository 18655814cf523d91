"""Comparing tensors byte by byte with what `safetensors` itself reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from safetensors import deserialize

from tests.loading.needs_torch import torch


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def reference(*paths: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of every tensor, as the reference implementation reads them."""
    return {
        name: (tuple(found["shape"]), bytes(found["data"]))
        for path in paths
        for name, found in deserialize(path.read_bytes())
    }


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Names, shapes and every byte; and each tensor is alone in its storage."""
    assert found.keys() == expected.keys()
    for name, (shape, content) in expected.items():
        assert tuple(found[name].shape) == shape, name
        assert bytes_of(found[name]) == content, name
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in found.values() if t.nbytes)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
