"""A network that begins with what another run left."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from slimmable import calibrate, convert
from slimmable.errors import CheckpointError, RecipeError
from slimmable.models.detection import build_detector
from slimmable.models.vision_options import DetectorSize
from slimmable.recipes import open_run, read_recipe, run
from slimmable.recipes.building import new_network
from slimmable.recipes.detection import DENSE
from slimmable.recipes.starting import StartSettings, holds_statistics, take_over
from tests.unit.recipes.scenes import TINY

BODY = "detector.backbone.body"
SWITCHES = (1.0, 0.5)


def told_apart(net, ratios):
    """``net`` with gains and shifts that differ from place to place, and statistics of some ratios."""
    norms = [each for layer in net.norm_layers for each in layer.module.parameters(recurse=False)]
    for parameter in [*net.tables.parameters(), *norms]:
        torch.nn.init.normal_(parameter)
    inputs = [torch.randn(8, 3, 64, 64)]
    calibrate(net, inputs, [net.space.uniform(ratio) for ratio in ratios])
    return net.eval()


def classifier(switches=SWITCHES, ratios=SWITCHES, **options):
    """A classifier whose statistics and gains say which switch they are of."""
    torch.manual_seed(1)
    plain = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    return told_apart(convert(plain, torch.randn(2, 3, 64, 64), switches=switches, **options), ratios)


def detector(norm="frozen", width=1.0):
    torch.manual_seed(0)
    plain = build_detector(
        "fcos",
        classes=2,
        backbone="resnet10",
        size=DetectorSize(width=width, neck=32, head_layers=1),
        image_size=(64, 64),
        norm=norm,
    )
    return convert(plain, torch.randn(2, 3, 64, 64), switches=SWITCHES, exclude=DENSE)


def settings(**options):
    return StartSettings(**{"run": "runs/imagenet", "into": BODY, **options})


@pytest.mark.parametrize("switches", [SWITCHES, (0.25, *SWITCHES), None], ids=["same", "more", "shared"])
def test_the_backbone_computes_what_it_computed(switches):
    source, net = classifier(switches, ratios=switches or SWITCHES), detector()
    seen = {}

    brought = take_over(net, source, settings())

    source.model.layer4.register_forward_hook(lambda *args: seen.update(expected=args[-1]))
    images = torch.randn(2, 3, 64, 64)
    for ratio in SWITCHES:
        with torch.no_grad(), source.at(source.space.uniform(ratio)), net.at(net.space.uniform(ratio)):
            source(images)
            found = net.eval().model.detector.backbone.body(images)["2"]
        torch.testing.assert_close(found, seen["expected"])
    assert set(brought) == set(net.calibrated) == set(net.switches)


class Joined(nn.Module):
    """A batch norm over the channels of two layers: at narrow widths its active ones are no first ones."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 16, 3), nn.BatchNorm2d(48)
        self.last = nn.Conv2d(48, 2, 3)

    def forward(self, x):
        return self.last(self.norm(torch.cat([self.left(x), self.right(x)], 1)))


def joined(norm=None, **options):
    plain = Joined()
    plain.norm = norm or plain.norm
    return convert(plain, torch.randn(2, 3, 16, 16), **options)


def test_every_switch_gets_the_gains_that_the_run_computes_with_at_its_width():
    source, net = told_apart(joined(), ratios=(0.5,)), joined(switches=(0.75, *SWITCHES))
    half, more = map(net.space.uniform, (0.5, 0.75))

    brought = take_over(net, source, settings(into=""))

    expected, found = source.extract(half), net.extract(half)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(found.norm.weight, expected.norm.weight)
    assert not torch.equal(found.norm.weight, source.model.norm._parameters["weight"][:24])
    assert torch.equal(found.eval()(images), expected(images))
    assert set(brought) == {half, net.space.base}, "the run has not measured the third"
    shifts = source.model.norm._parameters["bias"]
    assert torch.equal(net.table(more).value(0, "bias"), torch.cat([shifts[:24], shifts[32:48]]))


def test_a_run_without_all_switches_is_named():
    message = (
        r"runs/imagenet has batch norms for the switches 1\.0, 0\.75, and none for 0\.5; "
        r"expected a run with all switches of the new network \(1\.0, 0\.5\)"
    )
    with pytest.raises(CheckpointError, match=message):
        take_over(detector(), classifier((1.0, 0.75), ratios=(1.0, 0.75)), settings())


def test_gains_and_shifts_count_among_the_tensors_that_the_run_must_have():
    plain = joined(nn.Identity())

    with pytest.raises(CheckpointError, match="has 6 of the 10 tensors of the network"):
        take_over(joined(switches=SWITCHES), plain, settings(into=""))
    assert take_over(joined(switches=SWITCHES), plain, settings(into="", least=0.6)) == ()


def test_a_run_that_does_not_fit_is_named():
    with pytest.raises(CheckpointError, match=r"runs/imagenet has 0 of the 0 tensors of detector.head.body"):
        take_over(detector(), classifier(), settings(into="detector.head.body"))
    with pytest.raises(CheckpointError, match=r"runs/imagenet has 0 of the \d+ tensors of detector.head"):
        take_over(detector(), classifier(), settings(into="detector.head"))
    with pytest.raises(CheckpointError, match=r"is \(64, 64, 3, 3\) in runs/imagenet, here it is \(32, 64, 3, 3\)"):
        take_over(detector(width=0.5), classifier(), settings())


def test_frozen_norms_are_told_and_need_switches():
    net = detector().eval()
    assert holds_statistics(net)
    assert not net.training
    assert not holds_statistics(detector("calibrated"))
    found = read_recipe("detection/smoke", [*TINY, "task.network.norm=frozen", "method.kind=us-net", "calibration={}"])
    with pytest.raises(
        RecipeError, match=r"expected method.kind=s-net or independent, or task.network.norm=calibrated"
    ):
        holds_statistics(new_network(found, found.task.build()))


def test_a_run_begins_with_another_and_keeps_its_norms(tmp_path):
    first = read_recipe("detection/smoke", [*TINY])
    run(first, tmp_path / "first", device="cpu", progress=False)
    changes = [*TINY, "task.network.norm=frozen", f"start.run={tmp_path / 'first'}", "train.lr=1e-9"]
    second = read_recipe("detection/smoke", changes)

    run(second, tmp_path / "second", device="cpu", progress=False)

    one, two = (load_file(tmp_path / name / "network.safetensors") for name in ("first", "second"))
    assert one.keys() == two.keys()
    tables = [name for name in one if name.startswith("tables.")]
    assert tables
    assert all(torch.equal(one[name], two[name]) for name in tables)
    weights = [name for name in one if name.startswith("model.")]
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in weights)


def test_statistics_that_a_run_shares_among_its_widths_are_measured_anew(tmp_path):
    run(read_recipe("detection/smoke", [*TINY, "method.kind=naive"]), tmp_path / "first", device="cpu", progress=False)
    changes = [*TINY, "task.network.norm=frozen", f"start.run={tmp_path / 'first'}"]

    run(read_recipe("detection/smoke", changes), tmp_path / "second", device="cpu", progress=False)

    source, net = (open_run(tmp_path / name).net for name in ("first", "second"))
    for widths in net.switches:
        table = net.table(widths)
        assert all(table.value(i, "count") > 0 for i in range(len(net.norm_layers)))
        for i, layer in enumerate(source.norm_layers):
            with source.at(widths):
                assert torch.equal(table.value(i, "weight"), layer.module.weight)
