"""One text form per JSON value: the same value is the same bytes on every Python version."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys, no spaces, and ASCII only.

    Raises ValueError for NaN and infinities, which JSON cannot say, and TypeError for what JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
