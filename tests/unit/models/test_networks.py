"""What the papers' networks compute, held to torchvision's where it has them too."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import slimmable
from slimmable.errors import RecipeError
from slimmable.models import (
    MODELS,
    mobilenet_v1_cifar,
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet_cifar,
    shufflenet_v1,
    wdsr,
)
from slimmable.models.shufflenet_v1 import GROUPS, RUNS, Shuffle

ROUNDED = ["digits_cnn", "mobilenet_v1", "mobilenet_v1_cifar", "mobilenet_v2", "mobilenet_v3_large"]
ROUNDED += ["resnet20", "resnet32", "resnet44", "resnet56"]
PLAIN = ["resnet50", "shufflenet_v1"]


@pytest.mark.parametrize("name", [*ROUNDED, *PLAIN])
@pytest.mark.parametrize("width", [0.25, 1.0, 1.5])
def test_every_classifier_builds_at_narrow_and_wide_widths(name, width):
    with torch.device("meta"):
        net = MODELS[name].build(width=width, num_classes=7)
        output = net(torch.empty(2, *MODELS[name].input_size))
    assert output.shape == (2, 7)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert name in PLAIN or module.out_channels % 8 == 0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *(
            pytest.param(partial(build, width), partial(given, width_mult=width), id=f"{build.__name__}-{width}")
            for build, given in (
                (mobilenet_v2, torchvision.models.mobilenet_v2),
                (mobilenet_v3_large, torchvision.models.mobilenet_v3_large),
            )
            for width in (0.35, 0.6, 1.0, 1.3)
        ),
        pytest.param(resnet50, torchvision.models.resnet50, id="resnet50"),
    ],
)
def test_networks_take_the_weights_of_torchvision_and_compute_the_same(ours, theirs):
    torch.manual_seed(0)
    expected = theirs().eval()
    with torch.no_grad():
        for name, tensor in expected.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:  # no error hides behind a shift of 0 or a gain of 1
                tensor.copy_(torch.rand_like(tensor) + (0.5 if "var" in name else -0.3))
    net = ours().eval()

    net.load_state_dict(expected.state_dict())

    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected(images), rtol=1e-5, atol=1e-6)


def test_dropout_of_mobilenet_v1_acts_on_what_the_classifier_reads_and_in_training_only():
    torch.manual_seed(0)
    plain = mobilenet_v1_cifar(0.25, num_classes=5)
    net = mobilenet_v1_cifar(0.25, num_classes=5, dropout=0.25)
    net.load_state_dict(plain.state_dict())
    images, read = torch.randn(32, 3, 32, 32), []
    net.classifier.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    plain.classifier.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))

    with torch.no_grad():
        for each in (net, plain):
            each.train()(images)
        torch.testing.assert_close(net.eval()(images), plain.eval()(images))

    dropped, whole = read[:2]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    assert 0.2 < float((dropped == 0)[whole != 0].float().mean()) < 0.3


def test_zero_padding_adds_channels_that_are_zero():
    block = resnet_cifar(20, shortcut="zero-pad").blocks[3].eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 16, 8, 8)

    found = block(images)

    torch.testing.assert_close(found[:, :16], images[:, :, ::2, ::2])
    assert not found[:, 16:].any()


def test_shufflenet_halves_its_input_beside_what_it_makes_of_it():
    unit = shufflenet_v1().units[4].eval()
    nn.init.zeros_(unit.bn3.weight)
    images = torch.rand(1, 240, 5, 5)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    windows = [padded[:, :, i : i + 5 : 2, j : j + 5 : 2] for i in range(3) for j in range(3)]

    found = unit(images)

    assert found.shape == (1, 480, 3, 3)
    torch.testing.assert_close(found[:, :240], sum(windows) / 9)
    assert not found[:, 240:].any()


@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_shuffle_deals_out_every_channel_so_that_each_group_meets_all(length):
    channels = torch.arange(GROUPS * RUNS * length)
    dealt = Shuffle()(channels.view(1, -1, 1, 1)).flatten().view(GROUPS, -1)

    assert sorted(dealt.flatten().tolist()) == channels.tolist()
    for group in dealt:
        assert set((group // (RUNS * length)).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shuffle_of_a_narrow_network_is_a_part_of_that_of_a_wide_one(length):
    full = torch.arange(GROUPS * RUNS * 4)
    kept = full[full % 4 < length]

    narrow = Shuffle()(kept.view(1, -1, 1, 1)).flatten()

    wide = Shuffle()(full.view(1, -1, 1, 1)).flatten()
    assert narrow.tolist() == [channel for channel in wide.tolist() if channel in kept]


def test_the_original_shuffle_of_single_channels_leaves_no_choice_of_width():
    def between(shuffle: nn.Module) -> nn.Module:
        first, last = nn.Conv2d(6, 60, 1, groups=3), nn.Conv2d(60, 6, 1, groups=3)
        return nn.Sequential(first, shuffle, nn.Conv2d(60, 60, 3, groups=60), last)

    images = torch.randn(1, 6, 4, 4)
    ours = slimmable.convert(between(Shuffle()), images, divisor=1)
    original = slimmable.convert(between(nn.ChannelShuffle(3)), images, divisor=1)

    assert [group.choices for group in ours.space.groups] == [(15, 30, 45, 60)]
    assert not original.space.groups
    assert "does not split into 3 equal parts" in str(original.report)


def test_a_slim_shufflenet_keeps_as_many_channels_in_each_group():
    torch.manual_seed(0)
    model = shufflenet_v1().eval()
    net = slimmable.convert(model, torch.randn(1, 3, 64, 64), divisor=1, batch_norm="naive")
    widths = net.space.widths({**net.space.largest, "conv1": 15, "units.1.conv1": 30, "units.2.conv1": 45})

    plain = net.extract(widths)

    # 240 channels are 30 runs of 8, of which 5 stay; 60 are 15 runs of 4, of which 2 or 3 stay.
    trunk = [place for place in range(240) if place % 8 < 5]
    middle = {unit: [place for place in range(60) if place % 4 < kept] for unit, kept in ((1, 2), (2, 3))}
    for unit, rows in middle.items():
        first, last = model.units[unit].conv1.weight, model.units[unit].conv3.weight
        columns = [place for place in trunk if place < 80]
        assert torch.equal(plain.units[unit].conv1.weight, first[rows][:, columns])
        inside = [place for place in rows if place < 20]
        assert torch.equal(plain.units[unit].conv3.weight, last[trunk][:, inside])
        assert plain.units[unit].conv1.in_channels == 150
        assert plain.units[unit].conv3.groups == 3


@pytest.mark.parametrize("width", [0.6, 0.1, 0.0, -1.0])
def test_shufflenet_is_built_where_its_channels_come_in_groups_only(width):
    with pytest.raises(RecipeError, match=r"multiples of 0\.25 only"):
        shufflenet_v1(width)


@pytest.mark.parametrize("variant", ["A", "B"])
def test_wdsr_without_blocks_and_skip_is_its_mean_and_the_tail_in_pixels(variant):
    """A pixel of the output is one of the tail's channels at the pixel of the input that it lies in."""
    torch.manual_seed(0)
    net = wdsr(3, 0.5, variant=variant, blocks=2).eval()
    for block in net.body:
        contract = block.contract if variant == "A" else block.contract[1]
        nn.init.zeros_(contract.parametrizations.weight.original0)
        nn.init.zeros_(contract.bias)
    nn.init.zeros_(net.skip.parametrizations.weight.original0)
    nn.init.zeros_(net.skip.bias)
    images = torch.rand(2, 3, 6, 5)

    found = net(images)

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)
    tail = net.tail(net.head(images - mean))
    for channel in range(3):
        for i in range(3):
            for j in range(3):
                expected = tail[:, 9 * channel + 3 * i + j] + mean[channel]
                torch.testing.assert_close(found[:, channel, i::3, j::3], expected)


@pytest.mark.parametrize("variant", ["A", "B"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_fresh_wdsr_without_its_blocks_is_bicubic_up_scaling(scale, variant):
    net = wdsr(scale, 0.25, variant=variant, blocks=1).eval()
    images = torch.rand(1, 3, 12, 10)
    bicubic = nn.functional.interpolate(images, scale_factor=float(scale), mode="bicubic", antialias=True)
    inner = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))  # outside the image is the mean

    near = net(images)
    nn.init.zeros_(net.tail.parametrizations.weight.original0)
    found = net(images)

    torch.testing.assert_close(found[inner], bicubic[inner])
    assert 1e-4 < (near[inner] - bicubic[inner]).abs().mean() < 0.05


def test_wdsr_has_weight_norm_and_no_batch_norm():
    net = wdsr(blocks=2)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 2 * 2 + 3
    for layer in layers:
        length = layer.parametrizations.weight.original0
        torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), length.flatten().abs())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
