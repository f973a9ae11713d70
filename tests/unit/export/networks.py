"""Small networks, one for each way of deploying that differs, narrowed at random and ready to be written."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable.export.graph import Graph
from slimmable.runtime.base import Signature
from tests.unit.core.oracle import flat, shaken


class Mobile(nn.Module):
    """Residual sum, depthwise convolution, squeeze and excitation, activations in place, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.up = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish(inplace=True))
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze, self.excite, self.down = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1), nn.Conv2d(32, 16, 1)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.up(x))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.down(y)
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 2).flatten(1)))


class Joined(nn.Module):
    """Branches joined, a batch norm that cannot be folded, a transposed convolution, images in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(24)
        self.up, self.out = nn.ConvTranspose2d(24, 16, 2, stride=2), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat([self.one(x), F.max_pool2d(self.other(x), 3, 1, 1)], 1)))
        return self.out(F.interpolate(F.leaky_relu(self.up(x)), scale_factor=2.0, mode="bilinear"))


class Normed(nn.Module):
    """Layer and group norm, a constant, a buffer that is not saved, a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.deep, self.layer, self.head = nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 3)
        self.register_buffer("shift", torch.tensor([0.0, 1.0, 2.0]), persistent=False)
        self.scale = torch.full((1, 3, 1, 1), 0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.group(self.conv(x * self.scale))).mean((2, 3))
        return self.head(F.silu(self.layer(self.deep(x)))) + self.shift * torch.tensor([0.5])


class Attention(nn.Module):
    """Attention over tokens that are numbers of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv, self.back = nn.Embedding(11, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        n, length, channels = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, length, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, channels)
        return self.head(F.log_softmax(x + self.back(y), -1))


class Several(nn.Module):
    """Two inputs, an output in a dictionary, another that is half of a tensor, one that was made before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 16), nn.Linear(5, 16), nn.Linear(32, 6)

    def forward(self, x: Tensor, other: Tensor) -> Any:
        a, b = self.a(x).relu(), self.b(other).tanh_()
        first, second = self.head(torch.cat([a, b], 1)).chunk(2, 1)
        return {"second": second, "none": None, "rest": [first + 1, a.sum(1)]}


class Writing(nn.Module):
    """It writes into its input, and returns a view of it and a parameter that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Any:
        x += 1.0
        return self.b(self.a(x).relu_()), x[:, :2], self.a.weight


@dataclass(frozen=True)
class Case:
    """How a network is built, and what it is called with."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    outputs: int = 1


def _normal(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)),)


def _pair(batch: int) -> tuple[Tensor, ...]:
    return _normal(3)(batch) + _normal(5)(batch)


def _words(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (batch, 6), generator=torch.Generator().manual_seed(batch)),)


CASES = {
    "mobile": Case(Mobile, _normal(3, 9, 9)),
    "joined": Case(Joined, _normal(3, 8, 8)),
    "normed": Case(Normed, _normal(3, 8, 8)),
    "attention": Case(Attention, _words),
    "several": Case(Several, _pair, outputs=3),
}


def signature(case: Case) -> Signature:
    inputs = tuple(f"in{at}" for at in range(len(case.inputs(1))))
    return Signature(inputs=inputs, outputs=tuple(f"out{at}" for at in range(case.outputs)))


def narrowed(case: Case, seed: int = 0) -> nn.Module:
    """The network at random widths, batch norm folded where it can be."""
    model = shaken(case.build(), seed).eval()
    net = slimmable.convert(model, case.inputs(2), divisor=1, batch_norm="naive")
    return net.extract(net.space.random(Random(seed)), fold_batch_norm=True)


def arrays_of(module: nn.Module, graph: Graph) -> dict[str, np.ndarray]:
    """The tensors that a graph takes, as arrays in the ordinary order."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensors[name].detach().contiguous().numpy() for name in graph.parts} | dict(graph.extra)


def channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns in the memory order ``channels_last``."""
    laid = [each.to(memory_format=torch.channels_last) if each.ndim == 4 else each for each in inputs]
    with torch.inference_mode():
        return flat(_dropped(module.to(memory_format=torch.channels_last)(*laid)))


def _dropped(value: Any) -> Any:
    """Without what is None."""
    if isinstance(value, dict):
        return {key: _dropped(each) for key, each in value.items() if each is not None}
    return value
