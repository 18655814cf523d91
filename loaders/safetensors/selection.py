"""Which tensors, and which part of each: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from loaders.safetensors.errors import LoadError, UnknownTensor
from loaders.safetensors.header import TensorSpec

Rule = TypeVar("Rule")
Tensors = str | Iterable[str] | Callable[[str], bool] | None
"""A glob, several of them or names, or a function of the name; `None` is all."""
Bounds = tuple[tuple[int, int], ...]
"""Start and stop in each dimension."""
Shard = tuple[int, int, Mapping[str, int | None]] | Mapping[str, Sequence[slice]]
"""Either (rank, world, {glob: dimension}) or {glob: slices}, as in `tensor[slices]`."""


SHOWN = 20
"""Names in one message: enough to see what is wrong, too few to flood a log."""


def listed(names: Sequence[str]) -> str:
    """Return names as a message shows them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def chosen(names: Sequence[str], tensors: Tensors, uri: str) -> list[str]:
    """Return the names asked for, in the given order; patterns that match nothing are an error."""
    found, vain = selected(names, tensors)
    if vain:
        problem = f"no tensor matches {listed([repr(each) for each in vain])}"
        raise UnknownTensor(f"{problem}; there are {len(names)}, such as {names[:3]}", uri=uri)
    return found


def selected(names: Sequence[str], tensors: Tensors) -> tuple[list[str], list[str]]:
    """Return the names asked for, in the given order, and the patterns that match none."""
    if tensors is None:
        return list(names), []
    if callable(tensors):
        return [name for name in names if tensors(name)], []
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    known, found, vain = set(names), set[str](), []
    for pattern in patterns:
        # A name may have brackets or stars in it; then it means itself.
        matching = {pattern} if pattern in known else {name for name in names if fnmatchcase(name, pattern)}
        found |= matching
        if not matching:
            vain.append(pattern)
    return [name for name in names if name in found], vain


def bounds_of(tensor: TensorSpec, shard: Shard | None, uri: str) -> Bounds:
    """Return the part of the tensor that is wanted.

    Its own name rules, else the first glob that matches; a tensor without either is whole.
    """
    whole = tuple((0, length) for length in tensor.shape)
    if shard is None:
        return whole
    if isinstance(shard, Mapping):
        parts = _ruling(tensor.name, shard)
        return whole if parts is None else _sliced(tensor, parts, uri)
    rank, world, rules = shard
    if not 0 <= rank < world:
        raise LoadError(f"rank {rank} of a world of {world}", uri=uri)
    dimension = _ruling(tensor.name, rules)
    if dimension is None:
        return whole
    if not -len(whole) <= dimension < len(whole):
        raise LoadError(f"no dimension {dimension} in shape {list(tensor.shape)}", uri=uri, tensor=tensor.name)
    length = tensor.shape[dimension]
    cut = list(whole)
    cut[dimension] = (length * rank // world, length * (rank + 1) // world)
    return tuple(cut)


def _ruling(name: str, rules: Mapping[str, Rule]) -> Rule | None:
    if name in rules:
        return rules[name]
    return next((rule for pattern, rule in rules.items() if fnmatchcase(name, pattern)), None)


def _sliced(tensor: TensorSpec, parts: Sequence[slice], uri: str) -> Bounds:
    if len(parts) > len(tensor.shape):
        problem = f"{len(parts)} slices for shape {list(tensor.shape)}"
        raise LoadError(problem, uri=uri, tensor=tensor.name)
    found = []
    for part, length in zip([*parts, *[slice(None)] * (len(tensor.shape) - len(parts))], tensor.shape, strict=True):
        start, stop, step = part.indices(length)
        if step != 1:
            raise LoadError(f"a slice with step {step}; only 1 is read", uri=uri, tensor=tensor.name)
        found.append((start, max(start, stop)))
    return tuple(found)
