"""A slow oracle for elastic networks: the same network built narrow by hand, with the kept channels copied into it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel

Keep = Mapping[str, Mapping[int, Sequence[int]]]
"""Positions kept of a tensor's dimensions, where they are not simply the first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network as a function of its widths.

    Attributes:
        build: From the channels of every group to the network.
        full: Channels at full width; conversion must find groups of exactly these.
        narrow: Widths to hold to the oracle.
        inputs: Arguments of the forward.
        keep: From full and narrow channels to what is kept, where it is not the first.
        options: Further options of the conversion.
    """

    build: Callable[..., nn.Module]
    full: tuple[int, ...]
    narrow: tuple[tuple[int, ...], ...]
    inputs: tuple[Any, ...]
    keep: Callable[[Sequence[int], Sequence[int]], Keep] = lambda _full, _narrow: {}
    options: Mapping[str, Any] = field(default_factory=dict)


def images(channels: int = 3, size: int = 6, *, batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def segments(*parts: tuple[int, int]) -> list[int]:
    """Positions of the first ``kept`` of ``full``, for every ``(kept, full)`` of a concatenation."""
    found: list[int] = []
    start = 0
    for kept, full in parts:
        found += range(start, start + kept)
        start += full
    return found


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every parameter and statistic at random, so that no error hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "running_var" in name or "norm" in name else (noise - 0.5))
    return model


def flat(outputs: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for part in parts for tensor in flat(part)]


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal bit for bit."""
    one, other = flat(ours), flat(theirs)
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b), f"they differ by up to {(a - b).abs().max()}"


def by_hand(case: Case, full: nn.Module, narrow: Sequence[int]) -> tuple[nn.Module, dict[str, list[Tensor]]]:
    """The narrow network, and the positions its tensors were taken from in each dimension."""
    net = case.build(*narrow)
    keep = case.keep(case.full, narrow)
    source, state, places = full.state_dict(), {}, {}
    for name, tensor in net.state_dict().items():
        places[name] = [
            torch.tensor(list(keep.get(name, {}).get(dim, range(size)))) for dim, size in enumerate(tensor.shape)
        ]
        state[name] = source[name]
        for dim, index in enumerate(places[name]):
            state[name] = state[name].index_select(dim, index)
    net.load_state_dict(state)
    return net, places


def assert_slims(case: Case) -> SlimmableModel:
    """Hold a conversion to the oracle: outputs, gradients, extraction, sizes; at full width and at the narrow ones.

    Naive batch norm slices the given statistics, so that evaluation too has a network built by hand to be equal to.
    """
    original = shaken(case.build(*case.full)).eval()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    options = {"divisor": 1, "batch_norm": "naive", **case.options}
    net = slimmable.convert(original, case.inputs, **options)
    assert net.space.largest.channels == case.full, str(net.report)
    with torch.no_grad():
        assert_same(net(*case.inputs), original(*case.inputs))
    for narrow in case.narrow:
        widths = net.space.widths(narrow)
        expected, places = by_hand(case, original, narrow)
        expected.eval()
        with torch.no_grad(), net.at(widths):
            _assert_close(net(*case.inputs), expected(*case.inputs))
        plain = net.extract(widths)
        assert repr(plain) == repr(expected)
        assert_same(plain.state_dict(), expected.state_dict())
        with torch.no_grad():
            assert_same(plain(*case.inputs), expected(*case.inputs))
        _assert_gradients(net, widths, expected, places, case.inputs)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])
    return net


def _assert_gradients(
    net: SlimmableModel, widths: slimmable.Widths, narrow: nn.Module, places: dict[str, list[Tensor]], inputs: Any
) -> None:
    """Gradients in training are those of the narrow network where it has parameters, and zero or none elsewhere."""
    net = copy.deepcopy(net).train()  # naive batch norm moves its statistics
    with net.at(widths):
        loss(net(*inputs)).backward()
    loss(narrow.train()(*inputs)).backward()
    full = dict(net.model.named_parameters())
    for name, parameter in narrow.named_parameters():
        assert parameter.grad is not None, name
        found = full[name].grad
        assert found is not None, name
        expected = torch.zeros_like(full[name])
        expected[torch.meshgrid(*places[name], indexing="ij")] = parameter.grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def loss(outputs: Any) -> Tensor:
    """A scalar that treats all outputs differently."""
    return sum((tensor * torch.arange(tensor.numel()).view_as(tensor).sin()).sum() for tensor in flat(outputs))


def _assert_close(ours: Any, theirs: Any) -> None:
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))
