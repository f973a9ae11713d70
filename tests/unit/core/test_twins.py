"""Copies of networks are those that ``copy.deepcopy`` makes, but for the tensors that are given."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from slimmable.core.twins import copied, hollow, hollow_inputs, solid, twin
from tests.unit.core.oracle import images


class Keeps(nn.Module):
    """Attributes of every kind, some of them in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.again = self.first
        self.cache: dict[Any, Any] = {"size": (1, 2), "tensors": [torch.ones(2)]}
        self.also = self.cache
        self.by_number = {0: self.first}
        self.ordered = OrderedDict(a=1)
        self.listed = [self.first]
        self.call = self.forward
        self.act = torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache["seen"] = x
        return self.act(self.listed[0](x))


class SaysItself(nn.Module):
    """A module that is copied in a way of its own."""

    def __init__(self, copies: int = 0) -> None:
        super().__init__()
        self.copies = copies

    def __deepcopy__(self, memo: dict[int, Any]) -> "SaysItself":
        return SaysItself(self.copies + 1)


class LeavesOut(nn.Module):
    """A module whose copies lack something."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = object()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "handle"}


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].register_forward_hook(lambda _module, _args, output: output + 1)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Keeps(),
        hooked(),
        nn.Sequential(SaysItself(), LeavesOut()),
        weight_norm(nn.Linear(3, 4)),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.LSTM(3, 4),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_copy_is_what_deepcopy_makes(model):
    ours, theirs = copied(model, {}), copy.deepcopy(model)

    assert repr(ours) == repr(theirs)
    for mine, its, given in zip(ours.modules(), theirs.modules(), model.modules(), strict=True):
        assert type(mine) is type(its)
        assert list(vars(mine)) == list(vars(its))
        assert mine is not given
        for name, value in vars(mine).items():
            assert type(value) is type(vars(its)[name])
            if isinstance(value, dict):
                assert value is not vars(given)[name]
                assert list(value) == list(vars(its)[name])
    tensors = [dict(each.named_parameters()) | dict(each.named_buffers()) for each in (ours, theirs, model)]
    for name, tensor in tensors[0].items():
        assert type(tensor) is type(tensors[1][name])
        assert torch.equal(tensor, tensors[1][name])
        assert tensor.data_ptr() != tensors[2][name].data_ptr()


def test_what_is_in_two_places_is_one_thing_in_the_copy():
    model = Keeps()
    other = copied(model, {})

    assert other.again is other.first is other.listed[0] is other.by_number[0] is not model.first
    assert other.also is other.cache is not model.cache
    assert other.cache["tensors"][0] is not model.cache["tensors"][0]
    assert other.call.__self__ is other


def test_a_twin_shares_tensors_and_keeps_what_it_computes_to_itself():
    model = Keeps()
    other = twin(model)

    assert torch.equal(other(images()), model.act(model.first(images())))
    assert "seen" in other.cache
    assert "seen" not in model.cache
    assert all(one is two for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_a_hollow_network_has_shapes_and_no_data_and_a_solid_one_zeros():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    shell = hollow(model)

    with torch.no_grad():
        assert shell(hollow_inputs((images(),))[0]).shape == model(images()).shape
    for name, tensor in model.state_dict(keep_vars=True).items():
        for other, device in ((shell, "meta"), (solid(shell), "cpu")):
            blank = other.state_dict(keep_vars=True)[name]
            assert (type(blank), blank.device.type, blank.stride()) == (type(tensor), device, tensor.stride())
            assert blank.requires_grad == tensor.requires_grad
    assert all(not tensor.any() for tensor in solid(shell).state_dict().values())
