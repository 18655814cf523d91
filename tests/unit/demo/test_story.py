"""What the demo makes of what it saw."""

from __future__ import annotations

import io
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.demo.farewell import verdict
from reconciler.demo.guest_book import Executions
from reconciler.demo.screen import Names, Screen
from reconciler.demo.story import Story, telling_lines
from reconciler.demo.table import render, sums
from reconciler.demo.teller import Stage
from reconciler.demo.traffic import Load, Tally
from reconciler.demo.witness import StoryBroke, Witness

TRACEBACK = """The deployment failed to start 3 times in a row. Error:
ray::Greeter.initialize_and_get_metadata() (pid=1, ip=127.0.0.11)
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 456, in result
    return self.__get_result()
           ^^^^^^^^^^^^^^^^^^^
RuntimeError: Traceback (most recent call last):
  File "/x/.venv/lib/python3.11/site-packages/ray/serve/_private/replica.py", line 1867, in initialize
    await self._user_callable_wrapper.initialize_callable()
  File "/tmp/s/working_dir_files/_ray_pkg_4abef64a62b9/app.py", line 16, in __init__
    self.greeting = open("greeting.txt").read().strip()
                    ^^^^^^^^^^^^^^^^^^^^
FileNotFoundError: [Errno 2] No such file or directory: 'greeting.txt'
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Counted(Load):
    """A load whose service wrote these guests down; all of `answered` were answered."""

    def __init__(self, executions: Executions) -> None:
        super().__init__("http://127.0.0.1:9/", 1.0, Path("/nonexistent"))
        self._executions = executions

    def executions(self) -> Executions:
        return self._executions


def counted(*, answered: int = 3, twice: tuple[str, ...] = (), lost: tuple[str, ...] = ()) -> Executions:
    return Executions(answered=answered, twice=twice, lost=lost)


ONCE = counted()


def story(
    *,
    answers: dict[str, int],
    failures: dict[str, int] | None = None,
    peak: int = 4,
    executions: Executions = ONCE,
) -> Story:
    load = Counted(executions)
    load.tally = Tally(answers=Counter(answers), failures=Counter(failures or {}))
    witness = Witness(page_url="", ray_url="", service="greeter", peak=peak)
    screen = Screen(out=io.StringIO())
    nothing = object()
    return Story(
        repository=nothing,  # type: ignore[arg-type]
        witness=witness,
        load=load,
        screen=screen,
        names=Names(),
        start_load=lambda: None,
    )


def test_a_traceback_keeps_the_users_frames_and_the_error() -> None:
    assert telling_lines(TRACEBACK).splitlines() == [
        "RuntimeError: Traceback (most recent call last):",
        '  File "app.py", line 16, in __init__',
        '    self.greeting = open("greeting.txt").read().strip()',
        "FileNotFoundError: [Errno 2] No such file or directory: 'greeting.txt'",
    ]


def test_a_message_without_a_traceback_stays_whole() -> None:
    assert telling_lines("no node has 8 GPUs") == "no node has 8 GPUs"


BOTH = {"Hello from v1": 9, "Hello from v2": 1}
MANY = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize(
    ("told", "differs"),
    [
        ({"answers": {"Hello from v1": 9, "Hello from v2": 1}}, None),
        ({"answers": {"Hello from v1": 9, "Hello from v2": 1}, "failures": {"status 503": 1}}, "1 of 11 requests"),
        ({"answers": BOTH, "executions": counted(twice=("guest 3",))}, "executed twice: guest 3"),
        ({"answers": BOTH, "executions": counted(lost=MANY)}, "never executed: a, b, c, d, e and 1 more"),
        ({"answers": BOTH, "executions": counted(answered=0)}, "no POST was answered"),
        ({"answers": {"Hello from v1": 9}}, "nobody was ever answered 'Hello from v2'"),
        ({"answers": {"Hello from v1": 1, "Hello from v2": 1, "Hello from v3": 1}}, "unexpected answers"),
        ({"answers": {"Hello from v1": 1, "Hello from v2": 1}, "peak": 5}, "5 replicas at once (), the budget is 4"),
    ],
)
def test_looking_back_finds_what_differed(told: dict[str, object], differs: str | None) -> None:
    played = story(**told)  # type: ignore[arg-type]

    played.look_back()

    if differs is None:
        assert played.differences == []
    else:
        assert len(played.differences) == 1
        assert differs in played.differences[0]


def test_the_table_counts_each_stage_and_the_whole() -> None:
    stages = (
        Stage(text="v1 deployed", seconds=9.71, tally=Tally(), reaction=timedelta(milliseconds=230)),
        Stage(text="v2 at 20%", seconds=10.0, tally=Tally(answers=Counter({"Hello from v1": 8, "Hello from v2": 2}))),
    )
    whole = Tally(answers=Counter({"Hello from v1": 8, "Hello from v2": 2}), failures=Counter({"ReadError": 1}))

    witness = Witness(page_url="", ray_url="", service="greeter", peak=4)
    figures = sums(stages, whole, counted(answered=7, twice=("guest 3",)), witness, timedelta(seconds=80))
    lines = render(stages, figures).splitlines()

    assert lines[0].split() == ["stage", "seconds", "requests", "failed", "answered", "by", "first", "action"]
    assert lines[2].split() == ["v1", "deployed", "9.7", "-", "-", "-", "after", "0.23", "s"]
    assert lines[3].split() == ["v2", "at", "20%", "10.0", "10", "0", "v1", "8,", "v2", "2", "-"]
    assert "requests sent           11" in lines
    assert "requests failed         1" in lines
    assert "executed twice          1 of 7 POSTs, counted by the service itself" in lines
    assert "peak replicas           4 of at most 4 (3 + surge 1), counted at Ray" in lines


def test_what_is_not_a_terminal_gets_neither_colours_nor_a_live_line() -> None:
    out = io.StringIO()
    screen = Screen(out=out)

    screen.title("1. A chapter")
    screen.live(Names().shares({"abc": 100.0}), "busy")
    screen.end_live()

    assert out.getvalue() == "\n1. A chapter\n"
    assert verdict(["it rained"], screen) == "The story did not go as told:\n- it rained"


def test_no_color_is_respected_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    screen = Screen(out=out)

    screen.live(Names(known={"a": "v1", "b": "v2"}).shares({"b": 20.0, "a": 80.0}), "busy")

    assert out.getvalue().endswith("########################====== v1 80% v2 20%  busy")
    assert "\x1b[3" not in out.getvalue()


async def test_a_story_that_stands_still_says_what_was_seen_last() -> None:
    witness = Witness(page_url="", ray_url="", service="greeter", problem="Ray does not answer")

    with pytest.raises(StoryBroke, match=r"v1 goes live: not within 0.01 s\. Last seen: Ray does not answer"):
        await witness.until(lambda sight: True, within=timedelta(milliseconds=10), what="v1 goes live")


def test_what_serve_replaces_because_it_failed_to_start_is_told_apart_from_the_budget() -> None:
    witness = Witness(page_url="", ray_url="", service="greeter")

    witness._count([("a", "RUNNING"), ("b", "RUNNING"), ("c", "STARTING"), ("gone", "STOPPED")])
    witness._count([("a", "RUNNING"), ("b", "STOPPING"), ("c", "STOPPING"), ("d", "STARTING")])

    assert witness.peak == 3
    assert witness.peak_states == "2 RUNNING, 1 STARTING"
    assert witness.retried == 1

    witness._count([("a", "RUNNING"), ("b", "STOPPING"), ("d", "RUNNING"), ("e", "STARTING")])

    assert (witness.peak, witness.peak_states) == (4, "2 RUNNING, 1 STARTING, 1 STOPPING")
