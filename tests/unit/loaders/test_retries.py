"""Pauses grow, have a limit, and are not the same for everybody."""

from __future__ import annotations

from loaders.safetensors.sources.retries import FIRST_PAUSE, LONGEST_PAUSE, back_off


def test_pauses_grow_up_to_a_limit_and_differ() -> None:
    assert back_off(0) == 0
    for tries, most in [(1, FIRST_PAUSE), (3, 4 * FIRST_PAUSE), (30, LONGEST_PAUSE)]:
        pauses = [back_off(tries) for _ in range(200)]
        assert 0.2 * most <= min(pauses) < 0.5 * most < 0.8 * most < max(pauses) <= most
