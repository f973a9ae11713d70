"""A problem small enough to train in a blink: three classes of noisy 8x8 patterns."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable import SlimmableModel, convert

Batch = tuple[Tensor, Tensor]
CLASSES, SIZE = 3, 8


def toy_network(seed: int = 0) -> nn.Module:
    """Convolution, depthwise convolution and linear layer, with batch norm and dropout between them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = OrderedDict(
            stem=nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            depthwise=nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            norm2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            mix=nn.Conv2d(16, 32, 3, padding=1),
            norm3=nn.BatchNorm2d(32),
            relu3=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.2),
            head=nn.Linear(32, CLASSES),
        )
        return nn.Sequential(layers)


def toy_net(seed: int = 0, **options: Any) -> SlimmableModel:
    """The converted network."""
    return convert(toy_network(seed), (torch.zeros(2, 1, SIZE, SIZE),), **{"min_ratio": 0.5, **options})


def samples(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    return patterns[labels] + 0.5 * torch.randn(count, 1, SIZE, SIZE, generator=generator), labels


class Accuracy:
    def __init__(self) -> None:
        self.right = self.all = 0

    def update(self, outputs: Tensor, batch: Batch) -> None:
        self.right += int((outputs.argmax(1) == batch[1]).sum())
        self.all += len(batch[1])

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.all}


class ToyTask:
    """Classification written down once more, so that the loop is tested without the tasks of this library."""

    name = "toy"
    metric = "accuracy"
    higher_is_better = True

    def __init__(self, *, steps: int = 3, size: int = 12) -> None:
        self.steps, self.size = steps, size

    def model(self) -> nn.Module:
        return toy_network()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(2, 1, SIZE, SIZE),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> list[Batch]:
        images, labels = samples(self.steps * self.size, seed=1)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        return [(images[chosen], labels[chosen]) for chosen in order.split(self.size)]

    def validation_batches(self) -> list[Batch]:
        return [samples(24, seed=2)]

    def test_batches(self) -> list[Batch]:
        return [samples(24, seed=3)]

    def calibration_batches(self, *, samples: int, seed: int) -> list[tuple[Tensor, ...]]:
        return [(batch[0],) for batch in self.train_batches(nn.Identity(), epoch=0, seed=seed)]

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(batch[0])

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    def distillation_loss(self, outputs: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, target.softmax(1))

    def metrics(self) -> Accuracy:
        return Accuracy()

    def to(self, device: torch.device) -> "ToyTask":
        return self
