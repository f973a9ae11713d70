"""Which operators work in place: only those that nobody can tell from the others."""

from collections.abc import Callable
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.core.trace import trace
from slimmable.export.inplace import in_place
from slimmable.export.pytorch import weightless
from slimmable.runtime.base import Options, Signature
from slimmable.runtime.pytorch import TorchBackend
from tests.unit.export.networks import arrays_of, channels_last


class Code(nn.Module):
    """A network of two layers and some code."""

    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.code = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), code
        self.gain = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def found(code: Callable[[nn.Module, Tensor], Tensor]) -> list[str]:
    graph = trace(Code(code).eval(), (torch.ones(2, 4, 3, 3),))
    return [name.removeprefix("aten.").partition(".")[0] for name in in_place(graph).values()]


def late(net: Code, x: Tensor) -> Tensor:
    y = net.a(x)
    z = y.relu()
    return z + y


def viewed(net: Code, x: Tensor) -> Tensor:
    y = net.a(x)
    half = y[:, :2]
    z = torch.sigmoid(y)
    return z.sum(1) + half.sum(1)


def returned(net: Code, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.a(x)
    return y, y.relu()


def split(net: Code, x: Tensor) -> Tensor:
    one, other = net.a(x).chunk(2, 1)
    return one.relu() + other


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (lambda net, x: net.a(x).relu(), ["relu_"]),
        (lambda net, x: F.silu(F.silu(net.a(x)) + net.b(x)), ["silu_", "add_", "silu_"]),
        (lambda net, x: F.relu(net.a(x), inplace=True) * net.gain, ["mul_"]),
        (lambda net, x: x.relu() * 2, ["mul_"]),
        (lambda net, x: net.gain.relu() + x, []),
        (lambda net, x: net.gain * net.a(x), []),
        (lambda net, x: (net.gain + 1) * net.a(x), []),
        (lambda net, x: net.a(x) > 0, []),
        (lambda net, x: 1 - net.a(x), []),
        (lambda net, x: (y := net.a(x)) + y, ["add_"]),
        (lambda net, x: (y := net.a(x)) + y.transpose(2, 3), []),
        (lambda net, x: net.a(x).flatten(1).relu(), []),
        (lambda net, x: net.a(x).expand(2, 4, 3, 3).relu(), []),
        (lambda net, x: (net.a(x).double() + 1).float().relu(), []),
        (late, ["add_"]),
        (viewed, ["add_"]),
        (returned, []),
        (split, ["add_"]),
    ],
)
def test_operators_write_where_nobody_reads(code, expected):
    assert found(code) == expected


STEPS: list[Callable[[Code, list[Tensor], Random], Tensor]] = [
    lambda net, seen, draw: net.a(draw.choice(seen)),
    lambda net, seen, draw: F.relu(draw.choice(seen)),
    lambda net, seen, draw: F.hardswish(draw.choice(seen)),
    lambda net, seen, draw: draw.choice(seen) + draw.choice(seen),
    lambda net, seen, draw: draw.choice(seen) * net.gain,
    lambda net, seen, draw: draw.choice(seen) * draw.choice(seen).mean((2, 3), keepdim=True),
    lambda net, seen, draw: torch.cat(draw.choice(seen).chunk(2, 1)[::-1], 1),
    lambda net, seen, draw: draw.choice(seen).transpose(2, 3),
    lambda net, seen, draw: F.dropout(draw.choice(seen), training=False),
    lambda net, seen, draw: draw.choice(seen).relu_(),
    lambda net, seen, draw: draw.choice(seen)[:, :1] + draw.choice(seen),
]


@pytest.mark.parametrize("seed", range(12))
def test_random_code_yields_the_same_bits(seed):
    """Any operator may read any value before it, also one that shares memory with others."""

    def code(net: Code, x: Tensor) -> tuple[Tensor, ...]:
        draw, seen = Random(seed), [x]
        for _ in range(12):
            seen.append(draw.choice(STEPS)(net, seen, draw))
        return seen[-1], draw.choice(seen), draw.choice(seen)

    torch.manual_seed(seed)
    module = Code(code).eval()
    names = Signature(inputs=("x",), outputs=("a", "b", "c"))
    graph = weightless(module, (torch.randn(2, 4, 3, 3),), names)
    session = TorchBackend(Options()).bind(graph.content, arrays_of(module, graph), names)()
    x = torch.randn(3, 4, 3, 3)
    for one, other in zip(session.run([x]), channels_last(module, (x.clone(),)), strict=True):
        assert torch.equal(one, other)
