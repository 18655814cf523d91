"""Loading into a module: what is on the meta device gets the loaded tensor itself, everything else gets its bytes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from loaders.safetensors.errors import LoadError
from loaders.safetensors.loading import Ask, Job, stream_job

Place = tuple[torch.nn.Module, str]
SHOWN = 5


def load_module(ask: Ask, module: torch.nn.Module, *, strict: bool) -> None:
    """Load; names and shapes are compared before the first byte is read."""
    held = module.state_dict(keep_vars=True)
    places = _places(module)
    check = _Fit(ask.uri, held, strict)
    for name, tensor in stream_job(ask, check):
        old = held[name]
        if old.is_meta:
            _put(places[id(old)], old, tensor)
        else:
            with torch.no_grad():
                old.copy_(tensor)


class _Fit:
    """Compares a job with what the module holds."""

    def __init__(self, uri: str, held: dict[str, torch.Tensor], strict: bool) -> None:
        self._uri = uri
        self._held = held
        self._strict = strict

    def __call__(self, job: Job) -> None:
        """Raise `LoadError` where names or shapes do not fit."""
        found = {spec.name for _, spec in job.checkpoint.tensors}
        # A tied parameter is in the file under one of its names.
        loaded = {id(self._held[name]) for name in found & self._held.keys()}
        missing = sorted(name for name, held in self._held.items() if name not in found and id(held) not in loaded)
        spare = sorted(found - self._held.keys())
        for problem, names in (("the file lacks", missing), ("the module has no place for", spare)):
            if self._strict and names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                raise LoadError(f"{problem} {', '.join(names[:SHOWN])}{more}", uri=self._uri)
        for target in job.targets:
            name, shape = target.wanted.spec.name, target.wanted.shape
            if tuple(self._held[name].shape) != shape:
                text = f"has shape {list(shape)}, the module's has {list(self._held[name].shape)}"
                raise LoadError(text, uri=self._uri, tensor=name)


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
