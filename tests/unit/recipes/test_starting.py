"""A network that begins with what another run left."""

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models.resnet import BasicBlock, ResNet

from slimmable import calibrate, convert
from slimmable.errors import CheckpointError, RecipeError
from slimmable.models.detection import build_detector
from slimmable.models.vision_options import DetectorSize
from slimmable.recipes import read_recipe, run
from slimmable.recipes.building import new_network
from slimmable.recipes.detection import DENSE
from slimmable.recipes.starting import StartSettings, holds_statistics, take_over
from tests.unit.recipes.scenes import TINY

BODY = "detector.backbone.body"
SWITCHES = (1.0, 0.5)


def classifier(switches=SWITCHES):
    """A classifier whose statistics and gains say which switch they are of."""
    torch.manual_seed(1)
    net = convert(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), torch.randn(2, 3, 64, 64), switches=switches)
    calibrate(net, [torch.randn(8, 3, 64, 64)], [net.space.uniform(ratio) for ratio in switches])
    for parameter in net.tables.parameters():
        torch.nn.init.normal_(parameter)
    return net.eval()


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


@pytest.mark.parametrize("ratio", SWITCHES)
def test_the_backbone_computes_what_it_computed(ratio):
    source, net = classifier(), detector()
    seen = {}

    take_over(net, source, settings(), ratios=SWITCHES)

    source.model.layer4.register_forward_hook(lambda *args: seen.update(expected=args[-1]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), source.at(source.space.uniform(ratio)), net.at(net.space.uniform(ratio)):
        source(images)
        found = net.eval().model.detector.backbone.body(images)["2"]
    torch.testing.assert_close(found, seen["expected"])
    assert set(net.calibrated) == set(net.switches)


def test_switches_that_the_run_has_not_stay_as_they_were():
    net = detector()
    before = {name: value.clone() for name, value in net.table(net.space.uniform(0.5)).state_dict().items()}

    take_over(net, classifier(), settings(), ratios=(1.0,))

    after = net.table(net.space.uniform(0.5)).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


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
