"""Signs of life: who stands in for a holder of a claim that is stopped, and that nobody does for one that works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.safetensors import cache_signs
from loaders.safetensors.cache_claims import Claims
from loaders.safetensors.cache_signs import Signs

CHUNKS = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_signs, "EVERY", 0.02)
    monkeypatch.setattr(cache_signs, "STOPPED", 0.5)


class Process:
    """Claims as a process of its own has them. One that is stopped shows nothing."""

    def __init__(self, folder: Path) -> None:
        self.signs = Signs(folder / "signs")
        self.claims = Claims(folder / "claims", CHUNKS, self.signs)

    def stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.signs, "_write", lambda _: None)

    def close(self) -> None:
        self.claims.close()
        self.signs.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    made = [Process(tmp_path) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def test_nobody_stands_in_for_one_that_works(processes: list[Process]) -> None:
    one, other, _ = processes
    with one.claims.attempt(2) as claimed:
        assert claimed
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            with other.claims.attempt(2, stand_in=True) as as_well:
                assert not as_well
            time.sleep(0.05)


def test_one_stands_in_for_one_that_is_stopped_and_one_for_that_one_never(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, second, third = processes
    with stopped.claims.attempt(2):
        stopped.stop(monkeypatch)
        time.sleep(0.6)
        with second.claims.attempt(2) as claimed:
            assert not claimed, "only who asks to"
        with second.claims.attempt(2, stand_in=True) as claimed, third.claims.attempt(2, stand_in=True) as as_well:
            assert (claimed, as_well) == (True, False)
        with third.claims.attempt(2, stand_in=True) as claimed:
            assert claimed, "the stand-in has let go"
        with third.claims.attempt(3) as claimed:
            assert claimed, "of other chunks nothing is held"


def test_one_that_shows_no_signs_at_all_is_not_taken_for_stopped(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be an older version, or the disk is too full for its signs."""
    silent, other, _ = processes
    silent.stop(monkeypatch)
    with silent.claims.attempt(0):
        time.sleep(0.6)
        assert not other.signs.stopped(0)


def test_a_sign_from_before_the_machine_was_started_anew_is_none(tmp_path: Path, processes: list[Process]) -> None:
    (tmp_path / "signs").write_bytes(cache_signs.SIGN.pack(int((time.monotonic() + 1e6) * 1000)))
    assert not processes[0].signs.stopped(0)


def test_signs_end_with_what_is_held(processes: list[Process]) -> None:
    with processes[0].claims.attempt(0), processes[0].claims.attempt(1):
        assert threads() == 1
    deadline = time.monotonic() + 5
    while threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with processes[0].claims.attempt(0):
        assert threads() == 1


def threads() -> int:
    return sum(thread.name == "weights-signs" for thread in threading.enumerate())
