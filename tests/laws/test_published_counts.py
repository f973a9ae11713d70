"""One elastic network has, at every published width, exactly the published multiply-accumulates and dimensions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from slimmable import CostModel, SlimmableModel, convert
from slimmable.models import (
    mobilenet_v1,
    mobilenet_v1_cifar,
    mobilenet_v2,
    mobilenet_v2_expansions,
    mobilenet_v3_large,
    resnet50,
    resnet_cifar,
    shufflenet_v1,
)

IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
SMALL = IMAGE[..., :64, :64]
CIFAR = IMAGE[..., :32, :32]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Multiply-accumulates at 224x224, and parameters of convolutions, linear layers and batch norm, by ratio."""

    build: Callable[[], nn.Module]
    macs: Mapping[float, int]
    parameters: Mapping[float, int]
    norm_parameters: tuple[float, int]
    independent: int
    options: Mapping[str, Any] = field(default_factory=dict)


MOBILENET_V2 = Published(
    build=mobilenet_v2,
    macs={1.0: 300_774_272, 0.75: 209_069_792, 0.5: 97_131_840, 0.35: 59_285_808},
    parameters={1.0: 3_470_760, 0.75: 2_609_784, 0.5: 1_950_136, 0.35: 1_663_048},
    norm_parameters=(1.0, 34_112),
    independent=24,  # 25, without the last convolution
    options={"exclude": ["features.18"], "follow": mobilenet_v2_expansions()},
)
RESNET_50 = Published(
    build=resnet50,
    macs={1.0: 4_089_184_256, 0.75: 2_322_677_760, 0.5: 1_052_311_552, 0.25: 278_085_632},
    parameters={1.0: 25_503_912, 0.75: 14_732_152, 0.5: 6_891_080, 0.25: 1_980_696},
    norm_parameters=(1.0, 53_120),
    independent=37,
    options={"divisor": 1},
)
NETWORKS = {
    "mobilenet_v1": Published(
        build=mobilenet_v1,
        macs={1.0: 568_740_352, 0.75: 325_400_448, 0.5: 149_497_088, 0.25: 41_030_272},
        parameters={1.0: 4_210_088, 0.75: 2_569_144, 0.5: 1_320_648, 0.25: 464_600},
        norm_parameters=(1.0, 21_888),
        independent=14,
    ),
    "mobilenet_v2": MOBILENET_V2,
    "torchvision's mobilenet_v2": replace(MOBILENET_V2, build=torchvision.models.mobilenet_v2),
    "shufflenet_v1": Published(
        build=shufflenet_v1,
        macs={2.0: 523_405_824, 1.0: 137_300_832, 0.5: 37_549_896},
        parameters={2.0: 5_401_816, 1.0: 1_841_248, 0.5: 706_084},
        norm_parameters=(2.0, 48_960),
        independent=17,  # the middle of every unit, and one width for all that residual sums and groups tie
        options={"divisor": 1},
    ),
    "resnet50": RESNET_50,
    "torchvision's resnet50": replace(RESNET_50, build=torchvision.models.resnet50, options={}),
}


def counts(net: SlimmableModel, ratios: Any) -> list[int]:
    return CostModel(net).macs([net.space.uniform(ratio) for ratio in ratios]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("published", NETWORKS.values(), ids=NETWORKS)
def test_one_network_has_the_published_counts_at_all_published_widths(published):
    ratios = list(published.macs)
    net = convert(
        published.build(),
        IMAGE,
        min_ratio=min(ratios),
        max_ratio=max(ratios),
        batch_norm="naive",
        **published.options,
    )

    assert len(net.space) == published.independent
    assert counts(net, ratios) == list(published.macs.values())
    for ratio, expected in published.parameters.items():
        plain = net.extract(net.space.uniform(ratio))
        total = sum(parameter.numel() for parameter in plain.parameters())
        norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
        inside = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
        assert total - inside == expected
        if ratio == published.norm_parameters[0]:
            assert inside == published.norm_parameters[1]
    assert net.space.uniform(min(ratios)) == net.space.smallest
    assert net.space.uniform(max(ratios)) == net.space.largest


def test_cifar_mobilenet_v1_has_the_widths_of_the_multi_platform_paper():
    net = convert(mobilenet_v1_cifar(), CIFAR, min_ratio=0.2, max_ratio=1.5)

    table_1 = counts(net, (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0))
    assert [round(macs / 1e6, 4) for macs in table_1] == [3.3541, 7.3413, 12.2132, 19.0185, 26.5774, 36.2007, 46.4466]
    ends = counts(net, (0.2, 1.5))
    assert [round(macs / 1e6, 3) for macs in ends] == [2.345, 102.7]
    ratios = [0.2 + 0.1 * step for step in range(14)]
    choices = [len({group.at(ratio) for ratio in ratios}) for group in net.space.groups]
    assert choices == [6, 11, *[14] * 12]


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.56), (32, 68.87), (44, 97.18), (56, 125.49)])
def test_resnet_has_6_widths_after_tying_and_the_published_counts(depth, millions):
    blocks = (depth - 2) // 6
    inner = [[f"blocks.{stage * blocks + block}.conv1" for block in range(blocks)] for stage in range(3)]

    projected = convert(resnet_cifar(depth, num_classes=100), CIFAR, tie=inner)
    padded = convert(resnet_cifar(depth, num_classes=100, shortcut="zero-pad"), CIFAR)

    assert len(projected.space) == 6
    assert round(counts(padded, [1.0])[0] / 1e6, 2) == millions
    projections = 16**2 * 16 * 32 + 8**2 * 32 * 64
    assert counts(projected, [1.0])[0] - counts(padded, [1.0])[0] == projections


def test_mobilenet_v2_has_25_independent_widths():
    assert len(convert(mobilenet_v2(), SMALL).space) == 25


@pytest.mark.parametrize("build", [mobilenet_v3_large, torchvision.models.mobilenet_v3_large])
def test_mobilenet_v3_large_has_22_independent_widths_and_8_squeezes(build):
    net = convert(build(), SMALL)

    squeezes = [group.name for group in net.space.groups if group.name.endswith(".fc1")]
    assert (len(net.space) - len(squeezes), len(squeezes)) == (22, 8)
