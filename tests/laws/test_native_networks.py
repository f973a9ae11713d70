"""A converted network at a uniform ratio is the network that is built at that width: names, shapes, costs.

The native networks know nothing of conversion: they round every channel count themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimmable
from slimmable.models import (
    digits_cnn,
    mobilenet_v1,
    mobilenet_v1_cifar,
    mobilenet_v2,
    mobilenet_v2_expansions,
    mobilenet_v3_large,
    mobilenet_v3_large_expansions,
    resnet50,
    resnet_cifar,
    shufflenet_v1,
    wdsr,
    wdsr_expansions,
)


def steps(first: float, last: float, step: float = 0.025) -> tuple[float, ...]:
    return tuple(round(first + step * index, 4) for index in range(round((last - first) / step) + 1))


def wdsr_at(scale: Literal[2, 4], variant: Literal["A", "B"], width: float) -> nn.Module:
    return wdsr(scale, width, variant=variant)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A network as a function of its width, the widths, and how it is converted."""

    build: Callable[[float], nn.Module]
    size: tuple[int, int, int]
    widths: Sequence[float]
    options: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "digits_cnn": Family(build=digits_cnn, size=(1, 8, 8), widths=steps(0.25, 1, 0.05)),
    "mobilenet_v1": Family(build=mobilenet_v1, size=(3, 64, 64), widths=steps(0.25, 1)),
    # The search range of the multi-platform paper, and between them the widths of its Table 1.
    "mobilenet_v1_cifar": Family(
        build=mobilenet_v1_cifar, size=(3, 32, 32), widths=(0.2, *steps(0.25, 1, 0.125), *steps(1.1, 1.5, 0.1))
    ),
    "mobilenet_v2": Family(
        build=mobilenet_v2,
        size=(3, 64, 64),
        widths=steps(0.35, 1),
        options={"exclude": ["features.18"], "follow": mobilenet_v2_expansions()},
    ),
    "mobilenet_v3_large": Family(
        build=mobilenet_v3_large,
        size=(3, 64, 64),
        widths=steps(0.35, 1.25, 0.05),
        options={"follow": mobilenet_v3_large_expansions()},
    ),
    # Plain int(c * w) and rounding are one where c * w is whole.
    "resnet50": Family(build=resnet50, size=(3, 64, 64), widths=steps(0.25, 1, 1 / 16), options={"divisor": 1}),
    "shufflenet_v1": Family(build=shufflenet_v1, size=(3, 64, 64), widths=steps(0.25, 2, 0.25), options={"divisor": 1}),
    **{
        f"resnet{depth}": Family(build=partial(resnet_cifar, depth), size=(3, 32, 32), widths=steps(0.25, 1, step))
        for depth, step in ((20, 0.025), (32, 0.25), (44, 0.25), (56, 0.25))
    },
    **{
        f"wdsr_{variant}_x{scale}": Family(
            build=partial(wdsr_at, scale, variant),
            size=(3, 8, 8),
            widths=steps(0.5, 1, 1 / 16),
            options={"follow": wdsr_expansions(variant)},
        )
        for scale, variant in ((2, "A"), (4, "B"))
    },
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=[pytest.mark.slow] if family.size[-1] == 64 else [])
        for name, family in FAMILIES.items()
    ],
)
def test_a_converted_network_at_a_ratio_is_the_native_network_of_that_width(family):
    net = slimmable.convert(
        family.build(1.0),
        torch.randn(2, *family.size),
        min_ratio=family.widths[0],
        max_ratio=family.widths[-1],
        batch_norm="naive",
        **family.options,
    )
    for width in family.widths:
        with torch.device("meta"):
            native = family.build(width)
        widths = net.space.uniform(width)
        assert shapes(net.extract(widths)) == shapes(native), width
        assert slimmable.macs(net, widths) == counted_macs(native, family.size), width
    assert net.space.uniform(1.0) == net.space.base
    assert net.space.uniform(family.widths[0]) == net.space.smallest
    assert net.space.uniform(family.widths[-1]) == net.space.largest


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def counted_macs(native: nn.Module, size: Sequence[int]) -> int:
    with FlopCounterMode(display=False) as counter:
        native.eval()(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2
