"""Rivals of late requests: when they are asked for, who wins, and that they never cost more than they may."""

from __future__ import annotations

import random

import pytest

from loaders.safetensors.races import (
    BEGINS_AT_LEAST,
    BEGINS_UNKNOWN,
    MOST_IN_VAIN,
    MOST_LATE,
    MOST_RUNNERS,
    TAKES,
    TAKES_UNKNOWN,
    Overtaken,
    Patience,
    Race,
    Runner,
)
from loaders.safetensors.swarm import Assignment

CHUNK = 8 << 20


def running(race: Race, source: str | None = "peer") -> Runner:
    runner = Runner(Assignment(chunk=0, source=source))
    race.add(runner)
    return runner


def test_patience_is_measured_once_it_can_be() -> None:
    patience = Patience(100 * CHUNK, CHUNK)
    assert patience.lasts(begun=False) == BEGINS_UNKNOWN
    assert patience.lasts(begun=True) == TAKES_UNKNOWN
    for seconds in (4.0, 4.0, 4.0, 60.0):
        patience.took(seconds)
    assert patience.lasts(begun=False) == 2.0
    assert patience.lasts(begun=True) == TAKES * 4.0
    for _ in range(50):
        patience.took(0.01)
    assert patience.lasts(begun=False) == BEGINS_AT_LEAST


def test_only_a_peers_last_request_can_be_late_and_only_once() -> None:
    patience, race = Patience(100 * CHUNK, CHUNK), Race()
    first = running(race)
    assert not patience.ends(race, first.began + BEGINS_UNKNOWN - 0.01)
    assert patience.ends(race, first.began + BEGINS_UNKNOWN)
    first.begun = True
    assert not patience.ends(race, first.began + BEGINS_UNKNOWN)
    first.late = True
    assert not patience.ends(race, first.began + 99)
    for number in range(1, MOST_RUNNERS):
        assert patience.ends(race, running(race).began + 99) == (number < MOST_RUNNERS - 1)
    from_origin = Race()
    assert not patience.ends(from_origin, running(from_origin, None).began + 99)


def test_the_first_one_wins_and_the_others_are_broken_off() -> None:
    race = Race()
    first, second = running(race), running(race, None)
    assert race.wins(second)
    assert race.wins(second)
    assert not race.wins(first)
    third = running(race)
    for loser in (first, third):
        with pytest.raises(Overtaken):
            loser.interrupt.check()
    second.interrupt.check()


@pytest.mark.parametrize("chunks", [16, 1000])
def test_however_it_goes_no_more_is_received_in_vain_than_may_be(chunks: int) -> None:
    """Every rival loses with all but nothing received, at random moments."""
    patience, source, late = Patience(chunks * CHUNK, CHUNK), random.Random(chunks), list[int]()
    asked = 0
    for _ in range(20 * chunks):
        race = Race()
        if patience.ends(race, running(race).began + 99):
            asked += 1
            patience.late += 1
            late.append(source.randint(0, CHUNK))
        elif late or source.random() < 0.5:
            while late:
                patience.late -= 1
                patience.in_vain += late.pop()
        assert patience.late <= MOST_LATE
    assert asked >= MOST_LATE
    assert patience.in_vain <= max(MOST_LATE * CHUNK, MOST_IN_VAIN * chunks * CHUNK)
