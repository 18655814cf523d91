"""What was worked out at one look and still holds at the next: kept with how long it holds, which nobody has to say.

An answer about a service depends on its Memory, its spec and its cells, which a view holds, and on what else was read
of the view while it was worked out: the time, what was observed besides, other services. Each of these reads is noted,
so that an answer which read none of them holds for as long as Memory, spec and cells are the same; one that only asked
whether some time has passed holds until it has; and all others go with the look, or with the world, that they read.

A world that comes with `World.recall` has its views hand such answers on; without it each view begins anew, and says
the same. An answer must not be a view, for that would bring an old world along, nor an iterator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

FOREVER = datetime.max.replace(tzinfo=UTC)
"""As long as Memory, spec and cells are the same objects, and time does not run backwards."""

THIS_WORLD = datetime.min.replace(tzinfo=UTC)
"""No longer than the very world that was read."""

THIS_LOOK = THIS_WORLD + timedelta(microseconds=1)
"""As long as the observation and the time are the same, whatever became of Memory of other services."""


class Reads:
    """Until when the answer that is being worked out holds, by what was read so far."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.until = FOREVER

    def note(self, until: datetime) -> None:
        """Something was read that holds until then."""
        if until < self.until:  # noqa: PLR1730 (each look reads thousands of times, and `min` takes three times as long)
            self.until = until

    def rest_on(self, until: datetime) -> None:
        """An answer was taken that holds until then."""
        self.note(until)


class Answers:
    """What is known of one service: what holds as long as its Memory and cells do, and the rest with its end."""

    __slots__ = ("lasting", "passing")

    def __init__(self, lasting: dict[Hashable, Any] | None = None) -> None:
        """Nothing is known yet, but `lasting`."""
        self.lasting: dict[Hashable, Any] = lasting if lasting is not None else {}
        self.passing: dict[Hashable, tuple[datetime, Any]] = {}

    def handed_on(self, bar: datetime) -> Answers:
        """Return what of it still holds when only what ends after `bar` does."""
        kept = Answers(self.lasting)
        kept.passing = {key: found for key, found in self.passing.items() if found[0] > bar}
        return kept


class Recalling(Protocol):
    """What answers can be kept of: a view of a service."""

    @property
    def answers(self) -> Answers:
        """What is known of it."""

    @property
    def reads(self) -> Reads:
        """What is noted while something is worked out."""


View = TypeVar("View", bound=Recalling)
Args = ParamSpec("Args")
Answer = TypeVar("Answer")


def recalled(function: Callable[Concatenate[View, Args], Answer]) -> Callable[Concatenate[View, Args], Answer]:
    """Remember what a function says of a view, per hashable arguments; only those given by position are remembered."""

    @wraps(function)
    def answer(view: View, /, *args: Args.args, **kwargs: Args.kwargs) -> Answer:
        if kwargs:
            return function(view, *args, **kwargs)
        answers, key = view.answers, (function, *args) if args else function
        if key in answers.lasting:
            return answers.lasting[key]  # type: ignore[no-any-return]
        reads, found = view.reads, answers.passing.get(key)
        if found is None:
            # Whoever waits for this answer depends on it for no longer than it holds, and on what it read itself.
            waiting, reads.until = reads.until, FOREVER
            try:
                said = function(view, *args)  # type: ignore[call-arg]
            finally:
                until, reads.until = reads.until, waiting
            if until is FOREVER:
                answers.lasting[key] = said
                return said
            found = answers.passing[key] = (until, said)
        reads.rest_on(found[0])
        return found[1]

    return answer
