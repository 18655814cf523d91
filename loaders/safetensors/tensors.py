"""PyTorch's side of the format: dtypes, and tensors over memory."""

from __future__ import annotations

from loaders.safetensors.errors import UnsupportedDtype

try:
    import torch
except ImportError as missing:
    raise ImportError(
        "loaders.safetensors.torch needs PyTorch, which is not installed here; install the build for your device "
        "(https://pytorch.org/get-started/locally)"
    ) from missing

__all__ = ["over", "torch", "torch_dtype"]

NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16",
    "U32": "uint32", "I32": "int32", "F32": "float32",
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip
"""Packed dtypes (F4, F6) are missing: PyTorch has no tensor with one such element per place."""


def torch_dtype(dtype: str, *, uri: str, tensor: str) -> torch.dtype:
    """Return PyTorch's dtype for the format's; raise `UnsupportedDtype` where there is none."""
    found = getattr(torch, NAMES.get(dtype, ""), None)
    if not isinstance(found, torch.dtype):
        problem = f"PyTorch {torch.__version__} has no dtype for {dtype}; leave the tensor out with tensors="
        raise UnsupportedDtype(problem, uri=uri, tensor=tensor)
    return found


def over(memory: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor whose storage is exactly this memory, which it keeps alive."""
    if not len(memory):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
