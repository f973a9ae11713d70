"""A narrow network computes what the full one does with all other weights set to zero.

This oracle shares no slicing with the code: it runs the network as it was given, where the data flow alone decides
which weight meets which channel. A segment that is misplaced by one channel fails it, where shapes and counts agree.
"""

import copy
from collections.abc import Callable
from random import Random

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import slimmable
from slimmable.models import shufflenet_v1

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnext50_32x4d": lambda: torchvision.models.resnext50_32x4d(),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(),
    "densenet121": lambda: torchvision.models.densenet121(),
    "shufflenet_v2_x1_0": lambda: torchvision.models.shufflenet_v2_x1_0(),
    "regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(),
    "alexnet": lambda: torchvision.models.alexnet(),
    "ghostnet_100": lambda: timm.create_model("ghostnet_100"),
    "res2net50_26w_4s": lambda: timm.create_model("res2net50_26w_4s"),
    "hrnet_w18_small": lambda: timm.create_model("hrnet_w18_small"),
    "fastvit_t8": lambda: timm.create_model("fastvit_t8"),
    "shufflenet_v1": shufflenet_v1,
}

DIVISORS = {"shufflenet_v1": 1}
"""Where 8 leaves fewer choices than there are to be tested."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_narrow_networks_equal_masked_ones(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    net = slimmable.convert(model, images, batch_norm="naive", divisor=DIVISORS.get(name, 8))
    widths_list = [net.space.smallest, net.space.random(Random(0)), net.space.random(Random(1))]

    for widths in widths_list:
        with torch.no_grad(), net.at(widths):
            narrow = net(images)

        torch.testing.assert_close(narrow, masked(model, net, widths)(images), rtol=1e-8, atol=1e-10)


def masked(model: nn.Module, net: slimmable.SlimmableModel, widths: slimmable.Widths) -> nn.Module:
    """The given network with every weight at zero that is not active at ``widths``."""
    full = copy.deepcopy(model)
    maximum = net.space.largest.channels
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            for dim, layout in enumerate(net.analysis.parameters.get(name, ())):
                runs = net.grouping.axis(layout).active(widths.channels, maximum)
                keep_only(parameter, dim, runs)
    return full


def keep_only(parameter: Tensor, dim: int, runs: list[tuple[int, int]]) -> None:
    """Zero all positions of an axis that no run covers."""
    inactive = torch.ones(parameter.shape[dim], dtype=torch.bool)
    for start, length in runs:
        inactive[start : start + length] = False
    parameter.index_fill_(dim, inactive.nonzero().flatten(), 0.0)
