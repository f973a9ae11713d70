"""Conversion of networks people have, of as many families: the laws of a conversion hold for each."""

import copy
from dataclasses import dataclass, field
from random import Random

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimmable


@dataclass(frozen=True)
class Case:
    """A network, its input size, its independent widths and its elastic layers of all, and how it is built."""

    name: str
    size: int
    groups: int
    elastic: int
    layers: int
    options: dict[str, int] = field(default_factory=dict)

    def build(self) -> nn.Module:
        library, _, name = self.name.partition(":")
        torch.manual_seed(0)
        create = torchvision.models.get_model if library == "torchvision" else timm.create_model
        model = create(name, **self.options)
        return model.eval()


CASES = [
    Case("torchvision:resnet18", 64, 12, 21, 21),
    Case("torchvision:mobilenet_v2", 64, 25, 53, 53),
    Case("torchvision:mobilenet_v3_small", 64, 26, 54, 54),
    Case("torchvision:densenet121", 64, 120, 121, 121),
    Case("torchvision:shufflenet_v2_x0_5", 64, 20, 56, 57),
    Case("torchvision:regnet_y_400mf", 64, 52, 86, 86),
    Case("torchvision:resnext50_32x4d", 64, 37, 54, 54),
    Case("torchvision:swin_t", 224, 16, 53, 53),
    Case("torchvision:vit_b_16", 64, 13, 50, 50, {"image_size": 64}),
    Case("torchvision:googlenet", 64, 61, 64, 64),
    Case("torchvision:efficientnet_b0", 64, 36, 82, 82),
    Case("torchvision:squeezenet1_1", 64, 25, 26, 26),
    Case("torchvision:mnasnet0_5", 64, 24, 53, 53),
    Case("timm:convnextv2_atto", 64, 16, 41, 41),
    Case("timm:ghostnet_100", 64, 30, 95, 96),
    Case("timm:res2net50_26w_4s", 64, 45, 86, 86),
    Case("timm:hrnet_w18_small", 64, 45, 92, 92),
    Case("timm:dla34", 64, 25, 38, 38),
    Case("timm:repvgg_a0", 64, 5, 45, 45),
    Case("timm:seresnet50", 64, 53, 86, 86),
    Case("timm:vit_tiny_patch16_224", 64, 25, 50, 50, {"img_size": 64}),
    Case("timm:fastvit_t8", 64, 12, 69, 69),
    Case("timm:levit_128s", 224, 39, 52, 52),
    Case("timm:ecaresnet50t", 64, 39, 72, 72),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conversion_keeps_its_laws(case: Case) -> None:
    model = case.build()
    images = torch.randn(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))

    net = slimmable.convert(model, images)

    report = net.report
    assert (len(net.space), len(report.elastic), len(report.layers)) == (case.groups, case.elastic, case.layers)
    with torch.no_grad():
        assert torch.equal(net(images), model(images))
    generator = Random(0)
    widths_list = [net.space.smallest, *(net.space.random(generator) for _ in range(3))]
    samples = torch.randn(16, 3, case.size, case.size, generator=torch.Generator().manual_seed(2))
    slimmable.calibrate(net, [samples], widths_list)
    for widths in widths_list:
        plain = net.extract(widths)
        folded = net.extract(widths, fold_batch_norm=True)
        with torch.no_grad(), net.at(widths):
            outputs = net(images)
            assert torch.equal(plain(images), outputs)
            exact = copy.deepcopy(plain).double()(images.double())
            # Untrained networks amplify rounding; folding may not add to what float32 itself loses.
            assert relative_error(folded(images), exact) < max(1e-5, 2 * relative_error(outputs, exact))
            assert relative_error(folded.double()(images.double()), exact) < 1e-5
        assert slimmable.macs(net, widths) == counted_macs(plain, case.size)
        assert slimmable.parameters(net, widths) == sum(parameter.numel() for parameter in plain.parameters())


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest output."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def counted_macs(plain: nn.Module, size: int) -> int:
    """MACs of one image by PyTorch's own counter, which counts two FLOPs for each."""
    with FlopCounterMode(display=False) as counter:
        plain.to("meta")(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=6, intermediate_size=160, image_size=64, num_labels=5
    )
    return transformers.ViTForImageClassification(config)


def dinov2() -> nn.Module:
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=16, num_labels=5
    )
    return transformers.Dinov2ForImageClassification(config)


def convnext() -> nn.Module:
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], num_labels=5)
    )


@pytest.mark.parametrize("build", [vit, dinov2, convnext])
def test_hugging_face_s_networks_are_elastic_throughout(build):
    torch.manual_seed(0)
    model, images = build().eval(), torch.randn(2, 3, 64, 64)
    net = slimmable.convert(model, images)
    assert set(net.report.elastic) == set(net.report.layers), str(net.report)
    with torch.no_grad():
        assert torch.equal(net(images).logits, model(images).logits)
        for widths in (net.space.smallest, net.space.random(Random(0))):
            slimmable.calibrate(net, [images], [widths])
            with net.at(widths):
                assert torch.equal(net(images).logits, net.extract(widths)(images).logits)
