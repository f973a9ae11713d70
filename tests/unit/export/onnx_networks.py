"""Small networks of random widths, as extraction leaves them, with example inputs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.export.graph import Graph
from slimmable.export.onnx import OPSET, weightless
from slimmable.runtime.base import Signature


class Inverted(nn.Module):
    """Inverted residuals with squeeze and excitation, as in MobileNet v3."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        width, wide, narrow = random.randint(3, 40), random.randint(8, 72), random.randint(1, 12)
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.expand, self.deep = nn.Conv2d(width, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, narrow, 1), nn.Conv2d(narrow, wide, 1)
        self.project, self.head = nn.Conv2d(wide, width, 1), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.hardswish(self.deep(F.relu6(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class Joined(nn.Module):
    """A residual sum, a concatenation, batch norms that cannot be folded, and a linear layer behind a flattening."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        width, other = random.randint(2, 40), random.randint(2, 24)
        self.stem, self.side = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(3, other, 1)
        self.again, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.grouped = nn.Conv2d(2 * (width + other), width + other, 3, groups=width + other)
        self.norm_before = nn.BatchNorm2d(width + other)
        self.hidden, self.head = nn.Linear((width + other) * 9, 7), nn.Linear(7, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = F.relu(self.norm(y + self.again(F.gelu(y))))
        y = torch.cat([y, self.side(x)], 1)
        y = self.norm_before(F.max_pool2d(self.grouped(torch.cat([y, F.silu(y)], 1)), 2))
        return self.head(torch.tanh(self.hidden(F.interpolate(F.relu(y), scale_factor=1.0).flatten(1))))


class Upward(nn.Module):
    """Transposed convolutions and a group norm between an image and one of twice its size."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        width, groups = 4 * random.randint(1, 9), random.choice([1, 2, 4])
        self.down, self.norm = nn.Conv2d(3, width, 3, stride=2, padding=1), nn.GroupNorm(groups, width)
        self.up = nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1)
        self.last = nn.ConvTranspose2d(width // 2, 3, 2, stride=2)
        self.slope = nn.PReLU(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.slope(self.up(F.leaky_relu(self.norm(self.down(x))))))


class Attending(nn.Module):
    """Attention of both kinds with layer norms, position tables, and two layers that share their weights."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.heads = random.randint(1, 4)
        width, hidden = 4 * self.heads, random.randint(3, 40)
        self.embed, self.places = nn.Linear(6, width), nn.Parameter(torch.zeros(5, width))
        self.register_buffer("order", torch.tensor([4, 3, 2, 1, 0]), persistent=False)
        self.mix, self.norm = nn.MultiheadAttention(width, self.heads, batch_first=True), nn.LayerNorm(width)
        self.qkv, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.thin = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.first, self.second = nn.Linear(width, 4), nn.Linear(width, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places[self.order]
        x = x + self.mix(x, x, x, need_weights=False)[0]
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.back(mixed)
        x = x + self.thin(F.gelu(self.wide(self.norm(x)))) + (torch.arange(5 * width).view(5, width) / width).sin()
        return torch.cat([self.first(x), self.second(x.tanh())], 2)


class Several(nn.Module):
    """Words and numbers in; two outputs, one of them of whole numbers."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        width, hidden = random.randint(2, 40), random.randint(2, 40)
        self.words = nn.Embedding(300, width)
        self.mix, self.join = nn.Conv1d(width, hidden, 3, padding=1), nn.Linear(3, hidden)
        self.gain, self.head = nn.Parameter(torch.ones(())), nn.Linear(hidden, 6)

    def forward(self, words: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        x = F.elu(self.mix(self.words(words).transpose(1, 2))).amax(2)
        logits = self.head(x * self.gain + self.join(numbers))
        return logits, logits.argmax(1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network in evaluation mode, its example inputs (batch 2) and their names."""

    module: nn.Module
    example: tuple[Tensor, ...]
    signature: Signature

    def arrays(self, graph: Graph) -> dict[str, np.ndarray]:
        """What a graph of this network takes: copies of the network's tensors, and the exporter's."""
        tensors = dict((*self.module.named_parameters(), *self.module.named_buffers()))
        return {**{name: tensors[name].detach().numpy().copy() for name in graph.parts}, **graph.extra}

    def inputs(self, batch: int) -> list[np.ndarray]:
        """Other inputs like the example, of another batch size."""
        return [
            (
                torch.randn(batch, *each.shape[1:])
                if each.is_floating_point()
                else torch.randint(int(each.max()) + 1, (batch, *each.shape[1:]))
            ).numpy()
            for each in self.example
        ]

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What PyTorch computes."""
        with torch.no_grad():
            found = self.module(*map(torch.tensor, inputs))
        return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def _image(size: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, 3, size, size),)


_NETWORKS: dict[str, tuple[Callable[[Random], nn.Module], Callable[[], tuple[Tensor, ...]], Signature]] = {
    "inverted": (Inverted, _image(12), Signature(inputs=("x",), outputs=("y",))),
    "joined": (Joined, _image(8), Signature(inputs=("x",), outputs=("y",))),
    "upward": (Upward, _image(8), Signature(inputs=("image",), outputs=("larger",))),
    "attending": (Attending, lambda: (torch.randn(2, 5, 6),), Signature(inputs=("tokens",), outputs=("scores",))),
    "several": (
        Several,
        lambda: (torch.randint(300, (2, 7)), torch.randn(2, 3)),
        Signature(inputs=("words_in", "numbers"), outputs=("logits", "best")),
    ),
}
NAMES = tuple(_NETWORKS)


def build(name: str, seed: int = 0) -> Case:
    """A network of widths drawn by a seed, no tensor of it zero or one."""
    network, inputs, signature = _NETWORKS[name]
    torch.manual_seed(seed)
    module = network(Random(seed)).eval()
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise, inputs_each = torch.rand(tensor.shape), tensor.numel() // max([1, *tensor.shape[:1]])
                tensor.copy_(noise + 0.5 if "running_var" in key else (noise - 0.5) * (3 / inputs_each) ** 0.5)
    return Case(module=module, example=inputs(), signature=signature)


@cache
def graph_of(name: str, seed: int = 0) -> Graph:
    """The weight-less graph of a network."""
    case = build(name, seed)
    return weightless(case.module, case.example, case.signature)


def export_natively(case: Case, path: Path) -> Path:
    """An ordinary file of this network, as PyTorch writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            case.module,
            case.example,
            path,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=case.signature.inputs,
            output_names=case.signature.outputs,
            dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in case.example),
            external_data=False,
        )
    return path
