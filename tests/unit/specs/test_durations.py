"""Durations as specs write them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specs.durations import PATTERN, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("1m1s1ms", 61.001),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-5s", "5 m", "1d", "5M", "1h 30m", "1..5s", "٣s", "5s\n"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 30s, 5m, 1h30m"):
        parse_duration(text)


def test_more_than_a_year_is_refused() -> None:
    assert parse_duration("8760h") == timedelta(days=365)
    with pytest.raises(ValueError, match=r"longer than a year: write at most 8760h"):
        parse_duration("999999999h")


@given(st.integers(min_value=0, max_value=365 * 86_400_000))
def test_what_is_formatted_is_read_back(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@settings(max_examples=40)
@given(st.from_regex(PATTERN))
def test_whatever_the_schema_lets_through_is_read_or_too_long(text: str) -> None:
    assume(re.fullmatch(PATTERN, text))  # JSON Schema's `$` does not match before a line break, Python's does.
    hours = sum(float(number) * unit for number, unit in hours_in(text))
    if hours > 8760:
        with pytest.raises(ValueError, match="longer than a year"):
            parse_duration(text)
    else:
        assert parse_duration(text) / timedelta(hours=1) == pytest.approx(hours, abs=1e-6)


def hours_in(text: str) -> list[tuple[str, float]]:
    units = {"h": 1.0, "m": 1 / 60, "s": 1 / 3600, "ms": 1 / 3_600_000}
    return [(number, units[unit]) for number, unit in re.findall(r"([\d.]+)(ms|[hms])", text)]
