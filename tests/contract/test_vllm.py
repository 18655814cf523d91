"""The adapter for vLLM's loader interface: a stand-in of it, and vLLM's own source where that is unpacked."""

from __future__ import annotations

import json
import os
import tomllib
import types
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.loading.needs_torch import torch

# isort: split
from safetensors.torch import save_file

from loaders.vllm import LOAD_FORMAT, Options
from tests.loading.servers import ROOT, RangeServer
from tests.loading.vllm_interface import SOURCE_VARIABLE, LoadConfig, ModelConfig, VllmConfig, vllm

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5.0), "unused": torch.zeros(7)}


class Model(torch.nn.Module):
    """Loads its weights as vLLM's models do: from an iterator, saying which parameters it filled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 3, bias=False)
        self.b = torch.nn.Parameter(torch.zeros(5))
        self.read: list[str] = []

    def is_unused_checkpoint_weight(self, name: str) -> bool:
        return name == "unused"

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> set[str]:
        parameters = dict(self.named_parameters())
        for name, tensor in weights:
            self.read.append(name)
            parameters[name].data.copy_(tensor)
        return set(self.read)


class Larger(Model):
    """Has a parameter that no checkpoint knows."""

    def __init__(self) -> None:
        super().__init__()
        self.c = torch.nn.Parameter(torch.zeros(1))


@pytest.fixture(params=["stand-in", "source"])
def interface(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    if request.param == "source" and SOURCE_VARIABLE not in os.environ:
        pytest.skip(f"vLLM's source is not unpacked here ({SOURCE_VARIABLE})")
    with vllm(request.param) as module:
        entry_point().load()()
        yield module


def entry_point() -> EntryPoint:
    """What vLLM looks plug-ins up by, as the package declares it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ((name, value),) = declared["vllm.general_plugins"].items()
    return EntryPoint(name=name, value=value, group="vllm.general_plugins")


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HELIOSTAT_CACHE_BYTES", "1G")
    sharded = tmp_path / "origin" / "sharded"
    sharded.mkdir(parents=True)
    save_file(WEIGHTS, tmp_path / "origin" / "model.safetensors")
    places = {name: f"{number}.safetensors" for number, name in enumerate(WEIGHTS)}
    for name, file in places.items():
        save_file({name: WEIGHTS[name]}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with RangeServer(tmp_path / "origin") as server:
        yield server


def loaded(interface: types.ModuleType, uri: str, make: Any = Model, **options: Any) -> Any:
    """Load a model as vLLM does."""
    config = LoadConfig(LOAD_FORMAT, {"memory_limit": 64 << 20, **options})
    model = ModelConfig(uri, make)
    return interface.get_model_loader(config).load_model(vllm_config=VllmConfig(config, model), model_config=model)


@pytest.mark.parametrize("name", ["model.safetensors", "sharded", "sharded/"])
def test_a_model_gets_its_weights_and_what_it_does_not_use_is_not_read(
    interface: types.ModuleType, origin: RangeServer, name: str
) -> None:
    model = loaded(interface, origin.url(name))
    assert torch.equal(model.a.weight, WEIGHTS["a.weight"])
    assert torch.equal(model.b, WEIGHTS["b"])
    assert sorted(model.read) == ["a.weight", "b"]
    assert not model.training


def test_a_local_folder_is_read_where_it_is(interface: types.ModuleType, origin: RangeServer) -> None:
    assert torch.equal(loaded(interface, str(origin.folder / "sharded")).b, WEIGHTS["b"])


def test_weights_may_be_elsewhere_than_the_model(interface: types.ModuleType, origin: RangeServer) -> None:
    assert torch.equal(loaded(interface, "/nowhere", weights=origin.url("sharded")).b, WEIGHTS["b"])


def test_what_vllm_put_aside_is_where_an_object_store_s_model_has_its_weights(
    interface: types.ModuleType, origin: RangeServer
) -> None:
    config = LoadConfig(LOAD_FORMAT, {"memory_limit": 64 << 20})
    model = ModelConfig("/tmp/copy", Model, model_weights=origin.url("sharded"))
    found = interface.get_model_loader(config).load_model(vllm_config=VllmConfig(config, model), model_config=model)
    assert torch.equal(found.b, WEIGHTS["b"])


def test_a_download_ahead_fills_the_cache_and_the_load_then_needs_no_origin(
    interface: types.ModuleType, origin: RangeServer
) -> None:
    config = LoadConfig(LOAD_FORMAT, {"memory_limit": 64 << 20})
    loader = interface.get_model_loader(config)
    loader.download_model(ModelConfig(origin.url("model.safetensors"), Model))
    origin.stop()
    model = ModelConfig(origin.url("model.safetensors"), Model)
    found = loader.load_model(vllm_config=VllmConfig(config, model), model_config=model)
    assert torch.equal(found.b, WEIGHTS["b"])


def test_parameters_without_weights_are_an_error(interface: types.ModuleType, origin: RangeServer) -> None:
    with pytest.raises(ValueError, match="has no weights for c"):
        loaded(interface, origin.url("model.safetensors"), Larger)


def test_to_register_twice_changes_nothing(interface: types.ModuleType) -> None:
    before = type(interface.get_model_loader(LoadConfig(LOAD_FORMAT)))
    entry_point().load()()
    assert type(interface.get_model_loader(LoadConfig(LOAD_FORMAT))) is before
    assert issubclass(before, interface.BaseModelLoader)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"region": 3}, "region cannot be 3"),
        ({"memory_limit": True}, "memory_limit cannot be True"),
        ({"weight": "x"}, "knows no option 'weight'"),
        ("x", "must be a JSON object"),
    ],
)
def test_options_that_make_no_sense_are_explained(given: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Options.read(given)
