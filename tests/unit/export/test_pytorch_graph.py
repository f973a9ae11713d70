"""What a weight-less graph for PyTorch holds, and what cannot be written as one."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.export.pytorch import weightless
from slimmable.export.tracing import batched
from slimmable.runtime.base import Signature
from tests.unit.export.networks import CASES, arrays_of, narrowed, signature

ONE = Signature(inputs=("x",), outputs=("y",))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_holds_no_weights_and_names_each_of_them(name):
    module = narrowed(CASES[name])
    graph = weightless(module, CASES[name].inputs(2), signature(CASES[name]))
    assert set(graph.parts) <= {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert not set(graph.parts) & set(graph.extra)
    found = {name: (tuple(shape), dtype) for name, shape, dtype, _ in json.loads(graph.content)["tensors"]}
    assert found == {name: (each.shape, str(each.dtype)) for name, each in arrays_of(module, graph).items()}
    assert json.loads(graph.content)["any_batch"] is True


def test_the_example_may_have_any_batch_and_decides_nothing():
    case = CASES["mobile"]
    module = narrowed(case)
    contents = {weightless(module, case.inputs(batch), signature(case)).content for batch in (1, 2, 5)}
    assert len(contents) == 1


def test_a_shared_tensor_has_its_first_name_and_is_taken_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)).eval()
    net[1].weight = net[3].weight = net[0].weight
    graph = weightless(net, (torch.ones(1, 4),), ONE)
    assert sorted(graph.parts) == ["0.bias", "0.weight", "1.bias", "3.bias"]
    assert [name for name, _ in json.loads(graph.content)["calls"]] == ["aten.linear.default"] * 3


class Pairs(nn.Module):
    """Rows in pairs, which an odd batch does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x[: x.shape[0] // 2 * 2 - x.shape[0] % 3]


def test_a_network_that_fixes_the_batch_is_written_for_that_of_the_example(caplog):
    found = batched(Pairs().eval(), (torch.ones(4, 3),))
    assert (found.any_batch, found.trace.batch) == (False, 4)
    assert "its graph runs at batches of 4 only" in caplog.text


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    """It writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen


class Uninitialised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty_like(x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Branching(), "must not branch"),
        (Counting(), "writes into the network's own tensors"),
        (Uninitialised(), r"operator 'aten.empty_like.default' is not allowed"),
        (nn.Linear(3, 3).bfloat16(), "BFloat16"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_written_is_named(module: nn.Module, reason: str):
    dtype = next((each.dtype for each in module.parameters()), torch.float32)
    with pytest.raises(ExtractionError, match=reason):
        weightless(module.eval(), (torch.ones(2, 3, dtype=dtype),), ONE)


def test_training_mode_and_missing_names_are_refused():
    with pytest.raises(ExtractionError, match="training mode"):
        weightless(nn.Linear(3, 3), (torch.ones(2, 3),), ONE)
    with pytest.raises(ExtractionError, match="takes 1 tensors and returns 1, but 2 inputs and 1 outputs have names"):
        weightless(nn.Linear(3, 3).eval(), (torch.ones(2, 3),), Signature(inputs=("a", "b"), outputs=("y",)))


def test_module_is_left_as_it_was():
    case = CASES["joined"]
    module = narrowed(case)
    before: dict[str, Any] = {name: (each, each.clone()) for name, each in module.state_dict(keep_vars=True).items()}
    weightless(module, case.inputs(2), signature(case))
    for name, each in module.state_dict(keep_vars=True).items():
        assert each is before[name][0]
        assert torch.equal(each, before[name][1])
