"""The bar of a load: on a terminal, after a second, on one line that ends with the load."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from loaders.safetensors.progress import Bar, Progress, reporter

HALF = Progress(
    uri="http://o/w",
    source="http://o",
    done=500_000_000,
    total=1_000_000_000,
    tensors_done=3,
    tensors_total=6,
    seconds=2.0,
)
END = replace(HALF, done=HALF.total, tensors_done=6, seconds=4.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_tells_share_bytes_rate_and_source_on_one_line() -> None:
    stream = io.StringIO()
    draw = Bar(stream)
    draw(HALF)
    draw(END)
    assert stream.getvalue() == (
        "\r[############............]  50% 0.50/1.00 GB 0.25 GB/s from http://o"
        "\r[########################] 100% 1.00/1.00 GB 0.25 GB/s from http://o\n"
    )


def test_a_load_of_less_than_a_second_shows_none() -> None:
    stream = io.StringIO()
    draw = Bar(stream)
    draw(replace(HALF, seconds=0.9))
    draw(replace(END, seconds=0.99))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_there_is_one_on_a_terminal_unless_it_is_said_otherwise(
    asked: bool | None, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert isinstance(reporter(asked), Bar) is shown


def test_a_function_is_told_instead() -> None:
    told: list[Progress] = []
    assert reporter(told.append) == told.append
