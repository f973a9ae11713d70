"""Operators that write in place become others where nobody can tell, and nowhere else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimmable.export.onnx import weightless
from slimmable.export.out_of_place import out_of_place
from slimmable.runtime.base import Signature
from slimmable.runtime.onnx import OnnxBackend


def once(x: Tensor) -> Tensor:
    return F.hardtanh_((x * 2).relu_().add_(x), -0.5, 0.5)


def read_before(x: Tensor) -> Tensor:
    y = x * 2
    z = y - 1
    return y.relu_() + z


def read_after(x: Tensor) -> Tensor:
    y = x * 2
    z = y.relu_()
    return y + z


def through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1).relu_()
    return y + 1


def into_a_part(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:].add_(1)
    return y


def into_another_type(x: Tensor) -> Tensor:
    return (x * 2).add_(x.double()).mul_(3) / 7


SIGNATURE = Signature(inputs=("x",), outputs=("y",))
KEPT = {once: 0, read_before: 1, read_after: 0, through_a_view: 1, into_a_part: 1, into_another_type: 2}
"""How many operators still write in place: whoever reads the tensor otherwise would not see what they write."""


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x + 1)


@pytest.mark.parametrize("function", KEPT)
def test_a_network_that_writes_in_place_computes_the_same(function):
    x = torch.randn(3, 4)
    graph = weightless(Calls(function).eval(), (torch.randn(2, 4),), SIGNATURE)

    (found,) = OnnxBackend().bind(graph.content, graph.extra, SIGNATURE)().run([x.numpy()])

    expected = function(x + 1).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", KEPT)
def test_what_is_written_into_a_tensor_that_nobody_reads_makes_a_new_one(function):
    program = out_of_place(torch.export.export(Calls(function).eval(), (torch.randn(2, 4),), strict=False))

    names = [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.endswith("_") for name in names) == KEPT[function]
