"""Import this first in tests that make tensors: they are skipped where PyTorch is not, but never in CI."""

from __future__ import annotations

import os

import pytest

if os.environ.get("CI", "").lower() in ("", "0", "false"):
    pytest.importorskip("torch", reason="PyTorch is not installed: see CONTRIBUTING.md", exc_type=ImportError)

import torch

__all__ = ["torch"]
