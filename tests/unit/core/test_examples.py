"""What of the inputs counts examples: leading sizes that the network's work is in proportion to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from slimmable.core.examples import count_examples


class Function(nn.Module):
    """Any code as a network."""

    def __init__(self, code: Callable[..., object]) -> None:
        super().__init__()
        self.code, self.layer = code, nn.Linear(4, 4)

    def forward(self, *args: Tensor) -> object:
        return self.code(self.layer, *args)


def attend(layer: nn.Linear, x: Tensor, memory: Tensor) -> Tensor:
    return (layer(x) @ layer(memory).transpose(-1, -2)).softmax(-1) @ memory


def on_values(layer: nn.Linear, x: Tensor) -> Tensor:
    """Not without data."""
    return layer(x) if x.sum().item() == x.sum().item() else x


X, POSITIONS = torch.ones(8, 5, 4), torch.ones(5, 4)

CASES = {
    "a batch": (lambda layer, x: layer(x), (X,), 8),
    "one example": (lambda layer, x: layer(x), (X[:1],), 1),
    "no batch": (lambda layer, x: layer(x), (X[0, 0],), 1),
    "a scalar beside it": (lambda layer, x, t: layer(x) * t, (X, torch.tensor(0.5)), 8),
    "a vector beside it": (lambda layer, x, t: layer(x) * t[:, None, None], (X, torch.ones(8)), 8),
    "positions beside it": (lambda layer, x, p: layer(x) + layer(p), (X, POSITIONS), 8),
    "positions first": (lambda layer, p, x: layer(x) + layer(p), (POSITIONS, X), 8),
    "positions beside one example": (lambda layer, x, p: layer(x) + layer(p), (X[:1], POSITIONS), 1),
    "as many positions as examples": (lambda layer, x, p: layer(x) + layer(p), (X[:5], POSITIONS), 1),
    "a memory that all share": (attend, (X, torch.ones(7, 4)), 8),
    "a memory for each": (attend, (X, torch.ones(8, 7, 4)), 8),
    "a sequence without a batch": (lambda layer, x: attend(layer, x, x), (POSITIONS,), 1),
    "two batches": (lambda layer, x, y: (layer(x), layer(y)), (X, torch.ones(3, 4)), 1),
    "examples one by one": (lambda layer, x: torch.stack([layer(each) for each in x]), (X,), 8),
    "others beside the examples": (lambda layer, x: layer(torch.cat([x, torch.ones(3, 5, 4)])), (X,), 1),
    "a size in the code": (lambda layer, x: layer(x.view(8, 20)[:, :4]), (X,), 1),
    "a loss": (lambda layer, x: layer(x).mean(), (X,), 8),
    "no tensor": (lambda layer: layer.weight, (), 1),
    "code that looks at values": (on_values, (X,), 8),
}


@pytest.mark.parametrize(("code", "inputs", "expected"), CASES.values(), ids=CASES)
def test_examples_are_what_work_is_in_proportion_to(code, inputs, expected):
    model, state = Function(code), torch.get_rng_state()
    assert count_examples(model, inputs) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_stays_as_it_was():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen.append(len(x))
            return x

    model = Counting()
    assert count_examples(model, (X,)) == 8
    assert model.calls == 0
    assert model.seen == []
