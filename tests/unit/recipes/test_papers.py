"""The recipes have the settings that the papers state."""

import pytest

from slimmable.recipes import RECIPES, recipe
from slimmable.recipes.methods import SNet, UsNet
from slimmable.train import Cosine, Exponential, Linear, Sgd, Step

PAPERS = {
    "imagenet/s-net-mobilenet-v1": (160, 0.045, Exponential(ratio=0.98), 480, 1e-4),
    "imagenet/s-net-mobilenet-v2": (160, 0.045, Exponential(ratio=0.98), 480, 1e-4),
    "imagenet/s-net-resnet50": (256, 0.1, Step(milestones=(30, 60, 90), ratio=0.1), 100, 1e-4),
    "imagenet/us-net-mobilenet-v1": (1024, 0.5, Linear(), 250, 1e-4),
    "imagenet/us-net-mobilenet-v2": (1024, 0.5, Linear(), 250, 1e-4),
    "cifar10/us-net": (128, 0.1, Cosine(), 400, 5e-4),
    "cifar10/s-net": (128, 0.1, Cosine(), 400, 5e-4),
    "cifar100/s-net-mobilenet-v1": (128, 0.1, Exponential(ratio=0.985), 300, 5e-4),
    "cifar100/us-net-mobilenet-v1": (128, 0.1, Exponential(ratio=0.985), 300, 5e-4),
}


@pytest.mark.parametrize("name", PAPERS)
def test_training(name):
    found = recipe(name)
    train = found.train
    settings = (found.task.data.batch_size, train.lr, train.schedule, train.epochs, train.weight_decay)

    assert settings == PAPERS[name]
    assert train.optimizer == Sgd(momentum=0.9, nesterov=True)
    assert found.task.label_smoothing == 0
    assert train.warmup_epochs == 0
    assert not train.decay_depthwise


@pytest.mark.parametrize("name", RECIPES)
def test_only_us_nets_distil_and_calibrate(name):
    found = recipe(name)
    universal = isinstance(found.method, UsNet)

    assert found.train.distillation == universal
    assert (found.calibration is not None) == universal
    if universal:
        assert found.method.n == 4


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("imagenet/s-net-mobilenet-v1", (0.25, 0.5, 0.75, 1.0)),
        ("imagenet/s-net-mobilenet-v2", (0.35, 0.5, 0.75, 1.0)),
        ("imagenet/s-net-resnet50", (0.25, 0.5, 0.75, 1.0)),
        ("cifar100/s-net-mobilenet-v1", (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)),
    ],
)
def test_switches(name, switches):
    method = recipe(name).method

    assert isinstance(method, SNet)
    assert method.switches == switches


@pytest.mark.parametrize(
    ("name", "lowest"), [("imagenet/us-net-mobilenet-v1", 0.25), ("imagenet/us-net-mobilenet-v2", 0.35)]
)
def test_range_of_universal_networks(name, lowest):
    found = recipe(name)

    assert (found.convert.min_ratio, found.convert.max_ratio) == (lowest, 1.0)
    assert (found.ratios[0], found.ratios[-1]) == (lowest, 1.0)
