"""One elastic network has, at every published width, exactly the published multiply-accumulates and dimensions."""

import torch
import torchvision

from slimmable import CostModel, convert
from slimmable.models import mobilenet_v1, mobilenet_v2_expansions

IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def counts(net, ratios):
    return CostModel(net).macs([net.space.uniform(ratio) for ratio in ratios]).tolist()


def test_mobilenet_v1():
    net = convert(mobilenet_v1(), IMAGE, min_ratio=0.25)

    assert counts(net, (1.0, 0.75, 0.5, 0.25)) == [568_740_352, 325_400_448, 149_497_088, 41_030_272]
    assert net.space.uniform(0.25) == net.space.smallest


def test_mobilenet_v2_with_its_rule_of_expansion():
    net = convert(
        torchvision.models.mobilenet_v2(),
        IMAGE,
        min_ratio=0.35,
        exclude=["features.18"],
        follow=mobilenet_v2_expansions(),
    )

    assert counts(net, (1.0, 0.75, 0.5, 0.35)) == [300_774_272, 209_069_792, 97_131_840, 59_285_808]
    assert net.space.uniform(0.35) == net.space.smallest
    assert net.space.uniform(1.0) == net.space.largest


def test_mobilenet_v2_has_25_independent_widths():
    net = convert(torchvision.models.mobilenet_v2(), IMAGE[..., :64, :64])

    assert len(net.space) == 25


def test_mobilenet_v3_large_has_22_independent_widths_and_8_squeezes():
    net = convert(torchvision.models.mobilenet_v3_large(), IMAGE[..., :64, :64])

    squeezes = [group.name for group in net.space.groups if group.name.endswith(".fc1")]
    assert (len(net.space) - len(squeezes), len(squeezes)) == (22, 8)


def test_resnet_50_has_37_independent_widths_and_the_published_counts():
    net = convert(torchvision.models.resnet50(), IMAGE, min_ratio=0.25)

    assert len(net.space) == 37
    assert counts(net, (1.0, 0.75, 0.5, 0.25)) == [4_089_184_256, 2_322_677_760, 1_052_311_552, 278_085_632]
