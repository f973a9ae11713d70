"""Shared prefixes: equal to separate passes to the bit, whatever a network does in place."""

import random

import pytest
import torch
from torch import nn

import slimmable
from slimmable.measure.prefix import SharedPrefix, in_prefix_order
from slimmable.models import build_model

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Preactivated(nn.Module):
    """A residual block whose shortcut is read after the activation has written over it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.back = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        x = self.stem(images)
        before = x.mean((2, 3))
        y = self.back(self.inner(self.relu(x)))
        y += x
        return self.head(y.mean((2, 3)) + before + self.norm(x).amax((2, 3)))


NETWORKS = {
    "resnet20": lambda: build_model("slimmable:resnet20", num_classes=10).model,
    "mobilenet_v2": lambda: build_model("torchvision:mobilenet_v2", num_classes=10).model,
    "in place": Preactivated,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_separate_passes(name, training):
    torch.manual_seed(0)
    net = slimmable.convert(NETWORKS[name](), torch.randn(2, 3, 32, 32), batch_norm="naive").train(training)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    generator = random.Random(1)
    drawn = [net.space.random(generator) for _ in range(6)]
    order = in_prefix_order([*drawn, *drawn, net.space.largest, net.space.smallest])
    # Neighbours that agree in all but their last groups, and one pass that is the same as the one before.
    changed = dict(order[0]) | {net.space.names[-1]: net.space.groups[-1].maximum}
    order = [order[0], net.space.widths(changed), *order, order[-1]]
    with torch.no_grad():
        expected = []
        for widths in order:
            with net.at(widths):
                expected.append(net(IMAGES))
        with SharedPrefix() as prefix:
            for widths, output in zip(order, expected, strict=True):
                with net.at(widths):
                    assert torch.equal(prefix.run(lambda: net(IMAGES)), output)
    assert prefix.reused > 0


def test_only_what_differs_is_computed():
    net = slimmable.convert(nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))), torch.zeros(1, 16))
    names = net.space.names
    full = dict(net.space.largest)
    widths = [net.space.widths(full | {names[-1]: kept}) for kept in (8, 16)]
    inputs = torch.randn(3, 16)
    computed = []
    with torch.no_grad(), SharedPrefix() as prefix:
        for each in [*widths, widths[-1]]:
            with net.at(each):
                prefix.run(lambda: net(inputs))
            computed.append(prefix.computed)
    first, both, again = computed
    assert 0 < both - first < first
    assert again == both


def test_random_numbers_are_drawn_anew():
    dropout, inputs = nn.Dropout(0.5), torch.ones(100)
    with torch.no_grad(), SharedPrefix() as prefix:
        first, second = (prefix.run(lambda: dropout(inputs)) for _ in range(2))
    assert not torch.equal(first, second)
