"""What is held for good costs no rounds of the garbage collector."""

from __future__ import annotations

import gc

from reconciler.garbage import spare_what_is_there


def test_what_is_there_is_passed_over_once_and_what_comes_later_is_not() -> None:
    spare_what_is_there.cache_clear()
    held = [object()]
    try:
        spare_what_is_there()
        count = gc.get_freeze_count()
        assert all(found is not held for found in gc.get_objects())
        later = [held]
        spare_what_is_there()
        assert gc.get_freeze_count() == count > 0
        assert any(found is later for found in gc.get_objects())
    finally:
        gc.unfreeze()
        spare_what_is_there.cache_clear()
