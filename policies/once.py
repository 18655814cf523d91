"""What a frozen value answers is worked out once: a look asks the same few things of a view again and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

Value = TypeVar("Value")
Args = ParamSpec("Args")
Answer = TypeVar("Answer")


def once(method: Callable[Concatenate[Value, Args], Answer]) -> Callable[Concatenate[Value, Args], Answer]:
    """Remember a method's answers per value and hashable arguments; only those given by position are remembered.

    They live and go with the value; a copy with other fields (`dataclasses.replace`) begins anew.
    """
    place = f"once {method.__qualname__}"

    @wraps(method)
    def answer(value: Value, /, *args: Args.args, **kwargs: Args.kwargs) -> Answer:
        if kwargs:
            return method(value, *args, **kwargs)
        known = value.__dict__.get(place)
        if known is None:
            known = value.__dict__[place] = {}
        try:
            return known[args]  # type: ignore[no-any-return]
        except KeyError:
            found = known[args] = method(value, *args, **kwargs)
            return found

    return answer
