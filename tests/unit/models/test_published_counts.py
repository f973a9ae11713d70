"""Multiply-accumulates and parameters of the papers' networks, counted by PyTorch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimmable.models import (
    digits_cnn,
    mobilenet_v1,
    mobilenet_v1_cifar,
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet_cifar,
    shufflenet_v1,
    wdsr,
)

PUBLISHED = {
    (mobilenet_v1, 1.0): (568_740_352, 4_210_088),
    (mobilenet_v1, 0.75): (325_400_448, 2_569_144),
    (mobilenet_v1, 0.5): (149_497_088, 1_320_648),
    (mobilenet_v1, 0.25): (41_030_272, 464_600),
    (mobilenet_v2, 1.0): (300_774_272, 3_470_760),
    (mobilenet_v2, 0.75): (209_069_792, 2_609_784),
    (mobilenet_v2, 0.5): (97_131_840, 1_950_136),
    (mobilenet_v2, 0.35): (59_285_808, 1_663_048),
    (shufflenet_v1, 2.0): (523_405_824, 5_401_816),
    (shufflenet_v1, 1.0): (137_300_832, 1_841_248),
    (shufflenet_v1, 0.5): (37_549_896, 706_084),
    (resnet50, 1.0): (4_089_184_256, 25_503_912),
    (resnet50, 0.75): (2_322_677_760, 14_732_152),
    (resnet50, 0.5): (1_052_311_552, 6_891_080),
    (resnet50, 0.25): (278_085_632, 1_980_696),
}
"""Multiply-accumulates at 224x224, and parameters of convolutions and linear layers."""


def counted_macs(net: nn.Module, *size: int) -> int:
    net = net.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


def parameters_of(net: nn.Module, *kinds: type[nn.Module]) -> int:
    layers = [module for module in net.modules() if isinstance(module, kinds)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


@pytest.mark.parametrize(("build", "width"), PUBLISHED)
def test_networks_have_the_published_counts(build, width):
    with torch.device("meta"):
        net = build(width)
    assert (counted_macs(net, 3, 224, 224), parameters_of(net, nn.Conv2d, nn.Linear)) == PUBLISHED[build, width]


@pytest.mark.parametrize(
    ("build", "width", "parameters"),
    [
        (mobilenet_v1, 1.0, 21_888),
        (mobilenet_v2, 1.0, 34_112),
        (shufflenet_v1, 2.0, 48_960),
        (resnet50, 1.0, 53_120),
    ],
)
def test_networks_have_the_published_batch_norm_parameters(build, width, parameters):
    with torch.device("meta"):
        net = build(width)
    assert parameters_of(net, nn.BatchNorm2d) == parameters


def test_mobilenet_v3_large_has_the_counts_of_its_paper():
    with torch.device("meta"):
        net = mobilenet_v3_large()
    assert round(counted_macs(net, 3, 224, 224) / 1e6) == 217
    assert round(parameters_of(net, nn.Conv2d, nn.Linear, nn.BatchNorm2d) / 1e6, 1) == 5.5


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
        net = resnet_cifar(depth, num_classes=100, shortcut="zero-pad")
    assert round(counted_macs(net, 3, 32, 32) / 1e6, 2) == millions


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


def test_resnet_50_follows_the_formula_of_its_docstring():
    with torch.device("meta"):
        net = resnet50(num_classes=10)
    n, c, side = (3, 4, 6, 3), (64, 128, 256, 512), (16, 8, 4, 2)
    expected = 147 * 32**2 * 64 + 2048 * 10
    for s in range(4):
        before, entering = (4 * c[s - 1], side[s - 1]) if s else (64, 16)
        expected += entering**2 * before * c[s]
        expected += side[s] ** 2 * (9 * n[s] * c[s] ** 2 + n[s] * 4 * c[s] ** 2)
        expected += side[s] ** 2 * ((n[s] - 1) * 4 * c[s] ** 2 + before * 4 * c[s])
    assert counted_macs(net, 3, 64, 64) == expected


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_digits_network_follows_the_formula_of_its_docstring(width):
    with torch.device("meta"):
        net = digits_cnn(width)
    a, b, c = (int(base * width) for base in (32, 64, 128))
    expected = 64 * 9 * a + 16 * (10 * a * b + 9 * b * b) + 4 * (10 * b * c + 9 * c * c) + 10 * c
    assert counted_macs(net, 1, 8, 8) == expected
    assert min(a, b, c) >= 8


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("width", "n", "low"), [(0.5, 32, 24), (0.75, 48, 40), (1.0, 64, 48)])
def test_wdsr_follows_the_formula_of_its_docstring(scale, width, n, low):
    for variant, per_block in (("A", 72 * n**2), ("B", 6 * n**2 + 15 * n * low)):
        with torch.device("meta"):
            net = wdsr(scale, width, variant=variant, blocks=3)
        assert counted_macs(net, 3, 6, 5) == 30 * (27 * n + 3 * per_block + (27 * n + 225) * scale**2)
