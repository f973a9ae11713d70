"""Multiply-accumulates and parameters of the papers' networks, counted by PyTorch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimmable.models import MODELS, digits_cnn, mobilenet_v1, mobilenet_v1_cifar, resnet_cifar


def counted_macs(net: nn.Module, *size: int) -> int:
    net = net.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


def convolution_and_linear_parameters(net: nn.Module) -> int:
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("width", "macs", "parameters"),
    [
        (1.0, 568_740_352, 4_210_088),
        (0.75, 325_400_448, 2_569_144),
        (0.5, 149_497_088, 1_320_648),
        (0.25, 41_030_272, 464_600),
    ],
)
def test_mobilenet_v1_has_the_published_counts(width, macs, parameters):
    with torch.device("meta"):
        net = mobilenet_v1(width)
    assert counted_macs(net, 3, 224, 224) == macs
    assert convolution_and_linear_parameters(net) == parameters


def test_mobilenet_v1_has_the_published_batch_norm_parameters():
    with torch.device("meta"):
        net = mobilenet_v1()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(parameter.numel() for norm in norms for parameter in norm.parameters()) == 21_888


@pytest.mark.parametrize(
    ("width", "millions"),
    [
        (0.25, 3.3541),
        (0.375, 7.3413),
        (0.5, 12.2132),
        (0.625, 19.0185),
        (0.75, 26.5774),
        (0.875, 36.2007),
        (1.0, 46.4466),
    ],
)
def test_cifar_mobilenet_v1_has_table_1_of_the_multi_platform_paper(width, millions):
    with torch.device("meta"):
        net = mobilenet_v1_cifar(width)
    assert round(counted_macs(net, 3, 32, 32) / 1e6, 4) == millions


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.56), (32, 68.87), (44, 97.18), (56, 125.49)])
def test_resnet_with_zero_padding_has_the_published_counts(depth, millions):
    with torch.device("meta"):
        net = resnet_cifar(depth, shortcut="zero-pad")
    assert counted_macs(net, 3, 32, 32) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5, 2.0])
def test_resnet_follows_the_formula_of_its_docstring(width):
    with torch.device("meta"):
        net = resnet_cifar(32, width)
        plain = resnet_cifar(32, width, shortcut="zero-pad")
    n, side = 5, (32, 16, 8)
    c = [int(16 * 2**stage * width) for stage in range(3)]
    expected = 27 * 32**2 * c[0] + c[2] * 10
    for stage in range(3):
        before = c[max(stage - 1, 0)]
        expected += 9 * side[stage] ** 2 * (before * c[stage] + (2 * n - 1) * c[stage] ** 2)
    projections = sum(side[stage] ** 2 * c[stage - 1] * c[stage] for stage in (1, 2))
    assert counted_macs(plain, 3, 32, 32) == expected
    assert counted_macs(net, 3, 32, 32) == expected + projections


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_digits_network_follows_the_formula_of_its_docstring(width):
    with torch.device("meta"):
        net = digits_cnn(width)
    a, b, c = (int(base * width) for base in (32, 64, 128))
    expected = 64 * 9 * a + 16 * (10 * a * b + 9 * b * b) + 4 * (10 * b * c + 9 * c * c) + 10 * c
    assert counted_macs(net, 1, 8, 8) == expected
    assert min(a, b, c) >= 8


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.25, 1.0, 1.5])
def test_every_network_builds_at_any_width_with_channels_that_are_multiples_of_eight(name, width):
    with torch.device("meta"):
        net = MODELS[name].build(width=width, num_classes=7)
        output = net(torch.empty(2, *MODELS[name].input_size))
    assert output.shape == (2, 7)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % 8 == 0


def test_zero_padding_adds_channels_that_are_zero():
    block = resnet_cifar(20, shortcut="zero-pad").blocks[3].eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 16, 8, 8)

    found = block(images)

    torch.testing.assert_close(found[:, :16], images[:, :, ::2, ::2])
    assert not found[:, 16:].any()
