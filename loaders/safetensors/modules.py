"""Loading into a module: what is on the meta device gets the loaded tensor itself, everything else gets its bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from loaders.safetensors.errors import LoadError
from loaders.safetensors.loading import Ask, Job, check_memory, stream_job
from loaders.safetensors.selection import listed, selected

Place = tuple[torch.nn.Module, str]


def load_module(ask: Ask, module: torch.nn.Module, *, strict: bool) -> None:
    """Load what is asked for; names and shapes are compared before the first byte is read."""
    held = module.state_dict(keep_vars=True)
    places = _places(module)
    if ask.tensors is not None and not isinstance(ask.tensors, str) and not callable(ask.tensors):
        ask = dataclasses.replace(ask, tensors=list(ask.tensors))  # it may be an iterator, and is looked at again
    for name, tensor in stream_job(dataclasses.replace(ask, within=held), _Fit(ask, held, strict)):
        old = held[name]
        if old.is_meta:
            _put(places[id(old)], old, tensor)
        else:
            with torch.no_grad():
                old.copy_(tensor)


class _Fit:
    """Compares a job with what the module holds."""

    def __init__(self, ask: Ask, held: dict[str, torch.Tensor], strict: bool) -> None:
        self._ask = ask
        self._held = held
        self._strict = strict

    def __call__(self, job: Job) -> None:
        """Raise `LoadError` where names or shapes do not fit, and list all that do not."""
        problems = [*(self._names(job) if self._strict else ()), *self._shapes(job)]
        if problems:
            raise LoadError("; ".join(problems), uri=self._ask.uri)
        # What is on the meta device becomes memory; what is there already only passes through.
        made = [target.size for target in job.targets if self._held[target.wanted.spec.name].is_meta]
        check_memory(self._ask, sum(made))

    def _names(self, job: Job) -> Iterator[str]:
        found = [spec.name for _, spec in job.checkpoint.tensors]
        asked, _ = selected(found, self._ask.tensors)
        # A tied parameter is in the file under one of its names.
        loaded = {id(self._held[name]) for name in asked if name in self._held}
        wanted, _ = selected(list(self._held), self._ask.tensors)
        missing = sorted(name for name in wanted if name not in asked and id(self._held[name]) not in loaded)
        spare = sorted(set(asked) - self._held.keys())
        if missing:
            yield f"the file lacks {listed(missing)}"
        if spare:
            yield f"the module has no place for {listed(spare)}"

    def _shapes(self, job: Job) -> Iterator[str]:
        wrong = []
        for target in job.targets:
            name, shape = target.wanted.spec.name, target.wanted.shape
            if tuple(self._held[name].shape) != shape:
                wrong.append(f"{name} ({list(shape)}, the module's is {list(self._held[name].shape)})")
        if wrong:
            yield f"shapes do not fit: {listed(wrong)}"


def _places(module: torch.nn.Module) -> dict[int, list[Place]]:
    """Return every place where each parameter and buffer hangs: tied ones hang in several."""
    found: dict[int, list[Place]] = {}
    for owner in module.modules():
        for name, held in _own(owner):
            found.setdefault(id(held), []).append((owner, name))
    return found


def _own(owner: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from owner.named_parameters(recurse=False, remove_duplicate=False)
    yield from owner.named_buffers(recurse=False, remove_duplicate=False)


def _put(places: list[Place], old: torch.Tensor, tensor: torch.Tensor) -> None:
    new = torch.nn.Parameter(tensor, old.requires_grad) if isinstance(old, torch.nn.Parameter) else tensor
    for owner, name in places:
        setattr(owner, name, new)
