"""Loading into modules."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from safetensors.torch import save_file

from loaders.safetensors import aio
from loaders.safetensors.errors import LoadError, NotEnoughMemory, UnknownTensor
from loaders.safetensors.torch import load_into
from tests.loading.needs_torch import torch


class Net(torch.nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, width)
        self.layers = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.BatchNorm1d(width))
        self.head = torch.nn.Linear(width, 10, bias=False)
        self.head.weight = self.embed.weight
        self.layers[0].bias.requires_grad_(False)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = {name: tensor for name, tensor in Net().state_dict().items() if name != "head.weight"}
    state["layers.1.running_mean"] = torch.rand(8)
    save_file(state, tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors"), state


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parameters_and_buffers_get_their_values_and_ties_stay(
    saved: tuple[str, dict[str, torch.Tensor]], device: str
) -> None:
    uri, state = saved
    with torch.device(device):
        net = Net()
    before = net.layers[0].weight.data_ptr()
    load_into(net, uri)
    for name, tensor in state.items():
        assert torch.equal(net.state_dict()[name], tensor), name
    assert net.head.weight is net.embed.weight
    assert isinstance(net.embed.weight, torch.nn.Parameter)
    assert not net.layers[0].bias.requires_grad
    assert (net.layers[0].weight.data_ptr() == before) == (device == "cpu")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_s_own_second_name_for_a_parameter_or_buffer_stays_one(tmp_path: Path, device: str) -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = self.again = torch.nn.Parameter(torch.zeros(3))
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("same", self.mean)

    state = {"weight": torch.rand(3), "mean": torch.rand(2)}
    save_file(state, tmp_path / "w.safetensors")
    with torch.device(device):
        module = Twice()
    load_into(module, str(tmp_path / "w.safetensors"))
    assert module.again is module.weight
    assert module.same is module.mean
    assert torch.equal(module.again, state["weight"])
    assert torch.equal(module.same, state["mean"])


def test_what_is_there_keeps_its_dtype(saved: tuple[str, dict[str, torch.Tensor]]) -> None:
    uri, state = saved
    net = Net().half()
    load_into(net, uri)
    assert torch.equal(net.embed.weight, state["embed.weight"].half())


def test_names_and_shapes_that_do_not_fit_are_said_before_anything_changes(
    saved: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    uri, state = saved
    net, wide = Net(), Net(9)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    del state["embed.weight"]
    save_file(state | {"spare": torch.zeros(1)}, tmp_path / "other.safetensors")
    listing = r"the file lacks embed\.weight, head\.weight; the module has no place for spare$"
    with pytest.raises(LoadError, match=listing):
        load_into(net, str(tmp_path / "other.safetensors"))
    with pytest.raises(
        LoadError, match=r"shapes do not fit: embed\.weight \(\[10, 8\], the module's is \[10, 9\]\), layers\.0"
    ):
        load_into(wide, uri)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    load_into(net, str(tmp_path / "other.safetensors"), strict=False)
    assert torch.equal(net.layers[1].running_mean, state["layers.1.running_mean"])
    assert torch.equal(net.embed.weight, before["embed.weight"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "tensors",
    [
        "layers.0.*",
        ["layers.0.weight", "layers.0.bias"],
        lambda name: name.startswith("layers.0"),
        "iterator",
    ],
    ids=["glob", "names", "function", "iterator"],
)
def test_only_what_was_chosen_is_loaded_and_compared(
    saved: tuple[str, dict[str, torch.Tensor]], device: str, tensors: object
) -> None:
    uri, state = saved
    with torch.device(device):
        net = Net(8)
    before = net.embed.weight
    load_into(net, uri, tensors=iter(["layers.0.*"]) if tensors == "iterator" else tensors)
    assert torch.equal(net.layers[0].weight, state["layers.0.weight"])
    assert net.embed.weight is before


def test_a_choice_that_does_not_fit_is_said_with_all_its_names(
    saved: tuple[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    uri, state = saved
    net = Net()
    with pytest.raises(UnknownTensor, match=r"no tensor matches 'decoder\.\*', 'lm_head\.weight'"):
        load_into(net, uri, tensors=["embed.*", "decoder.*", "lm_head.weight"])
    del state["layers.0.bias"]
    save_file(state | {"layers.0.scale": torch.zeros(1)}, tmp_path / "other.safetensors")
    lacks = r"the file lacks layers\.0\.bias; the module has no place for layers\.0\.scale$"
    with pytest.raises(LoadError, match=lacks):
        load_into(net, str(tmp_path / "other.safetensors"), tensors="layers.0.*")
    load_into(net, str(tmp_path / "other.safetensors"), tensors="layers.0.*", strict=False)
    assert torch.equal(net.layers[0].weight, state["layers.0.weight"])


def test_a_rank_loads_its_part_into_a_module_of_that_shape(saved: tuple[str, dict[str, torch.Tensor]]) -> None:
    uri, state = saved

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(8))

    rules = {"layers.0.*": 0}
    for rank in range(2):
        for device in ("cpu", "meta"):
            with torch.device(device):
                part = Part()
            load_into(part, uri, tensors="layers.*", shard=(rank, 2, rules))
            rows = slice(4 * rank, 4 * rank + 4)
            assert torch.equal(part.layers[0].weight, state["layers.0.weight"][rows])
            assert torch.equal(part.layers[0].bias, state["layers.0.bias"][rows])
            assert torch.equal(part.layers[1].running_mean, state["layers.1.running_mean"])
    with pytest.raises(LoadError, match=r"do not fit: .*layers\.0\.weight \(\[8, 8\], the module's is \[4, 8\]\)"):
        load_into(Part(), uri, tensors="layers.*")


def test_a_dtype_is_that_of_what_was_on_the_meta_device(saved: tuple[str, dict[str, torch.Tensor]]) -> None:
    uri, state = saved
    with torch.device("meta"):
        net = Net()
    load_into(net, uri, dtype=torch.bfloat16)
    assert torch.equal(net.embed.weight, state["embed.weight"].bfloat16())
    assert net.layers[1].num_batches_tracked.dtype == torch.int64
    there = Net()
    load_into(there, uri, dtype=torch.bfloat16)
    assert there.embed.weight.dtype == torch.float32
    assert torch.equal(there.embed.weight, state["embed.weight"].bfloat16().float())


def test_in_an_event_loop_a_module_is_loaded_with_the_same_arguments(
    saved: tuple[str, dict[str, torch.Tensor]],
) -> None:
    uri, state = saved
    with torch.device("meta"):
        net = Net()
    asyncio.run(aio.load_into(net, uri, tensors="layers.0.*", dtype=torch.float16, strict=True))
    assert torch.equal(net.layers[0].weight, state["layers.0.weight"].half())


def test_a_module_that_would_not_fit_stays_as_it_is(saved: tuple[str, dict[str, torch.Tensor]]) -> None:
    uri, _ = saved
    with torch.device("meta"):
        net = Net()
    with pytest.raises(NotEnoughMemory, match="memory_limit"):
        load_into(net, uri, memory_limit=100)
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loaders.safetensors.loading.free_on", lambda _: 100)
        with pytest.raises(NotEnoughMemory, match="has 100 left"):
            load_into(net, uri)
        load_into(Net(), uri)
