"""Loading into modules."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from loaders.safetensors.errors import LoadError
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
    with pytest.raises(LoadError, match=r"the file lacks embed\.weight, head\.weight"):
        load_into(net, str(tmp_path / "other.safetensors"))
    with pytest.raises(LoadError, match=r"tensor 'embed\.weight': has shape"):
        load_into(wide, uri)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    load_into(net, str(tmp_path / "other.safetensors"), strict=False)
    assert torch.equal(net.layers[1].running_mean, state["layers.1.running_mean"])
    assert torch.equal(net.embed.weight, before["embed.weight"])
