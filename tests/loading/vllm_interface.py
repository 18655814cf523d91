"""vLLM's public loader interface without vLLM: a stand-in written from its documentation, or its own source.

The source is `vllm/model_executor/model_loader/{__init__,base_loader}.py` of an unpacked wheel; what those two files
import of the rest of vLLM is replaced, for it needs gigabytes of other packages.
"""

from __future__ import annotations

import contextlib
import os
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

SOURCE_VARIABLE = "HELIOSTAT_VLLM_SOURCE"
"""A folder with an unpacked vLLM wheel: `pip download --no-deps vllm && unzip vllm-*.whl 'vllm/model_executor/*'`."""


class LoadConfig:
    def __init__(self, load_format: str, model_loader_extra_config: Any = None) -> None:
        self.load_format = load_format
        self.model_loader_extra_config = {} if model_loader_extra_config is None else model_loader_extra_config
        self.device = None


class ModelConfig:
    def __init__(self, model: str, make: Any, *, model_weights: str = "", quantization: str | None = None) -> None:
        self.model, self.model_weights, self.make = model, model_weights, make
        self.quantization, self.dtype, self.revision = quantization, torch.float32, None


class VllmConfig:
    def __init__(self, load_config: LoadConfig, model_config: ModelConfig) -> None:
        self.load_config, self.model_config, self.quant_config = load_config, model_config, None
        self.device_config = types.SimpleNamespace(device="cpu")


class BaseModelLoader(ABC):
    """The stand-in's base class: what vLLM's documentation says of it."""

    def __init__(self, load_config: LoadConfig) -> None:
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: ModelConfig) -> None: ...

    @abstractmethod
    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None: ...

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> torch.nn.Module:
        model = model_config.make()
        self.load_weights(model, model_config)
        return model.eval()


def stand_in() -> types.ModuleType:
    """Return a module with the documented functions."""
    module = types.ModuleType("vllm.model_executor.model_loader")
    known: dict[str, type[Any]] = {}

    def register_model_loader(load_format: str) -> Any:
        def wrapper(loader: type[Any]) -> type[Any]:
            if not issubclass(loader, BaseModelLoader):
                raise ValueError("The model loader must be a subclass of `BaseModelLoader`.")
            known[load_format] = loader
            return loader

        return wrapper

    module.BaseModelLoader = BaseModelLoader  # type: ignore[attr-defined]
    module.register_model_loader = register_model_loader  # type: ignore[attr-defined]
    module.get_model_loader = lambda config: known[config.load_format](config)  # type: ignore[attr-defined]
    return module


class Anything(types.ModuleType):
    """A module of vLLM that is not there: every name in it is something that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name)


class Nothing:
    """A class, function, decorator or context of no effect."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return False if name.startswith("VLLM_") else Nothing(name)

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return (object,)


def of_source(folder: Path, put: dict[str, types.ModuleType]) -> types.ModuleType:
    """Run vLLM's own two files; `put` receives the modules that stand in for the others."""
    place = folder / "vllm" / "model_executor" / "model_loader"
    base = _module("vllm.model_executor.model_loader.base_loader", put)
    package = _module("vllm.model_executor.model_loader", put)
    package.__path__ = [str(place)]
    utils = _absent("vllm.model_executor.model_loader.utils", put)
    utils.initialize_model = lambda vllm_config, model_config, prefix: model_config.make()  # type: ignore[attr-defined]
    utils.process_weights_after_loading = lambda *_: None  # type: ignore[attr-defined]
    config = _absent("vllm.config", put)
    config.ModelConfig, config.VllmConfig = ModelConfig, VllmConfig  # type: ignore[attr-defined]
    _absent("vllm.config.load", put).LoadConfig = LoadConfig  # type: ignore[attr-defined]
    _absent("vllm.tracing", put).instrument = lambda **_: lambda function: function  # type: ignore[attr-defined]
    online = _absent("vllm.model_executor.layers.quantization.online.base", put)
    online.OnlineQuantizationConfig = type("OnlineQuantizationConfig", (), {})  # type: ignore[attr-defined]
    for module, file in ((base, "base_loader.py"), (package, "__init__.py")):
        path = place / file
        _absent_imports(path, put)
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)  # that is what is tested
    return package


def _absent_imports(path: Path, put: dict[str, types.ModuleType]) -> None:
    import ast

    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] == "vllm":
                _absent(name, put)


def _module(name: str, put: dict[str, types.ModuleType]) -> types.ModuleType:
    put[name] = sys.modules[name] = types.ModuleType(name)
    return put[name]


def _absent(name: str, put: dict[str, types.ModuleType]) -> types.ModuleType:
    """Put a module, and the packages above it, in vLLM's place."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        each = ".".join(parts[:depth])
        if each not in sys.modules:
            put[each] = sys.modules[each] = Anything(each)
            put[each].__path__ = []
        if depth > 1:
            setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], sys.modules[each])
    return sys.modules[name]


@contextlib.contextmanager
def vllm(kind: str) -> Iterator[types.ModuleType]:
    """Put `vllm.model_executor.model_loader` where imports find it: a "stand-in", or of the "source"."""
    put: dict[str, types.ModuleType] = {}
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "vllm"}
    for name in before:
        del sys.modules[name]
    try:
        if kind == "source":
            with mock.patch.object(torch.accelerator, "empty_cache"):  # it wants a device, and there may be none
                yield of_source(Path(os.environ[SOURCE_VARIABLE]), put)
        else:
            module = stand_in()
            sys.modules[module.__name__] = put[module.__name__] = module
            _absent("vllm.model_executor", put).model_loader = module  # type: ignore[attr-defined]
            yield module
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]
        sys.modules.update(before)
