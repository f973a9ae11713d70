"""The recipes have the settings that the papers state."""

import pytest
import torch

from slimmable.models import resnet_cifar
from slimmable.recipes import RECIPES, recipe
from slimmable.recipes.building import converted
from slimmable.recipes.methods import OwsMethod, PareCoMethod, SNet, UsNet
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
def test_networks_of_any_width_calibrate_and_all_but_ows_distil(name):
    found = recipe(name)
    universal = isinstance(found.method, UsNet | PareCoMethod | OwsMethod)

    assert found.train.distillation == (universal and not isinstance(found.method, OwsMethod))
    assert (found.calibration is not None) == universal
    if isinstance(found.method, UsNet):
        assert found.method.n == 4


def test_the_searches_have_the_papers_constants():
    pareco, ows, aows = map(recipe, ("cifar10/pareco", "cifar100/ows-mobilenet-v1", "cifar100/aows-mobilenet-v1"))
    steps = pareco.train.epochs * (45_000 // 128)  # a tenth of the images is held out
    assert (pareco.method.m, pareco.method.n, pareco.method.warm_up) == (2, 313, 20)
    assert 850 < pareco.method.m * steps / pareco.method.n < 1000
    assert (pareco.convert.min_ratio, pareco.convert.divisor, len(pareco.convert.tie)) == (0.316, 1, 3)
    assert (pareco.method.acquisition.bins, pareco.method.acquisition.tolerance) == (50, 0.02)
    assert (ows.train.epochs, ows.train.lr, ows.method.k, ows.method.choices) == (50, 0.1, 1, 14)
    assert not ows.method.adaptive
    assert (aows.method.adaptive, aows.method.warm_up_epochs) == (True, 10)
    assert aows.method.temperatures.values == (1.0, 0.01, 0.001, 0.0005)
    assert [round(platform.budget / 1e6, 2) for platform in ows.method.platforms] == [
        3.35,
        7.34,
        12.21,
        19.02,
        26.58,
        36.2,
        46.45,
    ]
    final = recipe("cifar100/s-net-mobilenet-v1")
    assert (final.task.network.dropout, final.train.dropout_widest_only) == (0.6, True)


def test_pareco_has_the_six_width_parameters_of_its_paper():
    options = recipe("cifar10/pareco").convert
    net = converted(resnet_cifar(20), (torch.randn(2, 3, 32, 32),), options=options, method=PareCoMethod())
    assert len(net.space) == 6


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
