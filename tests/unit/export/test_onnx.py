"""Weight-less ONNX graphs: the same for all values of the tensors, and with nothing in them but the network."""

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.export.onnx import LARGE, weightless
from slimmable.runtime.base import Signature
from slimmable.runtime.onnx import OnnxBackend
from slimmable.runtime.protobuf import with_tensors
from tests.unit.export.onnx_networks import NAMES, build, graph_of

PLAIN = Signature(inputs=("x",), outputs=("y",))


def parsed(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_holds_operators_and_small_constants(name):
    graph, case = graph_of(name), build(name)
    model = parsed(graph.content)
    tensors = dict((*case.module.named_parameters(), *case.module.named_buffers()))

    assert set(graph.parts) <= set(tensors)
    assert not {*graph.parts, *graph.extra} & {each.name for each in model.graph.initializer}
    assert all(len(each.raw_data) <= LARGE < 4 * 1000 for each in model.graph.initializer)
    assert all(array.nbytes > LARGE for array in graph.extra.values())
    assert tuple(each.name for each in model.graph.input) == case.signature.inputs
    assert tuple(each.name for each in model.graph.output) == case.signature.outputs
    for each in model.graph.input:
        assert each.type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(parsed(with_tensors(graph.content, case.arrays(graph))), full_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_tells_nothing_of_the_code_that_made_it(name):
    model = parsed(graph_of(name).content)

    assert model.producer_name == "slimmable"
    assert not model.metadata_props
    assert not model.graph.metadata_props
    for each in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        assert not each.metadata_props
        assert not each.doc_string
    for word in (b".py", b"File", b"torch", type(build(name).module).__name__.encode(), __name__.encode()):
        assert word not in graph_of(name).content


def test_a_graph_is_the_same_for_all_values_of_the_tensors():
    name = "attending"
    case = build(name)
    with torch.no_grad():
        for tensor in case.module.state_dict().values():
            tensor.zero_()

    found = weightless(case.module, case.example, case.signature)

    assert found.content == graph_of(name).content
    assert found.parts == graph_of(name).parts


def test_tied_tensors_are_one_part_under_their_first_name():
    parts = graph_of("attending").parts

    assert "first.weight" in parts
    assert "second.weight" not in parts


class Adds(nn.Module):
    """Adds a large constant and a small one."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(600, dtype=torch.float32).sqrt() + torch.tensor([0.25])


def test_large_constants_lie_beside_the_graph():
    graph = weightless(Adds().eval(), (torch.zeros(2, 600),), PLAIN)

    assert not graph.parts
    (extra,) = graph.extra.values()
    np.testing.assert_allclose(extra.ravel(), np.sqrt(np.arange(600)), rtol=1e-6)
    (found,) = OnnxBackend().bind(graph.content, graph.extra, PLAIN)().run([np.zeros((3, 600), "f")])
    np.testing.assert_allclose(found, np.tile(np.sqrt(np.arange(600)) + 0.25, (3, 1)), rtol=1e-6)


class Odd(nn.Module):
    """Names that the exporter gives to other values."""

    def __init__(self) -> None:
        super().__init__()
        self.v0, self.linear, self.x_1 = nn.Parameter(torch.rand(4)), nn.Linear(4, 4), nn.Parameter(torch.rand(4))
        self.unused = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.v0) * self.x_1


def test_parts_keep_their_names_whatever_the_exporter_calls_its_values():
    net = Odd().eval()
    graph = weightless(net, (torch.rand(1, 4),), PLAIN)

    assert graph.parts == ("linear.bias", "linear.weight", "v0", "x_1")
    arrays = {name: tensor.detach().numpy() for name, tensor in net.named_parameters() if name in graph.parts}
    x = torch.rand(3, 4)
    (found,) = OnnxBackend().bind(graph.content, arrays, PLAIN)().run([x.numpy()])
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-5)


def test_names_that_cannot_be_given_are_an_error():
    with pytest.raises(ExtractionError, match=r"\['v0'\] name tensors of the network"):
        weightless(Odd().eval(), (torch.rand(2, 4),), Signature(inputs=("v0",), outputs=("y",)))
    with pytest.raises(ExtractionError, match=r"takes 1 tensors and returns 1; the signature names 1 and 2"):
        weightless(Odd().eval(), (torch.rand(2, 4),), Signature(inputs=("x",), outputs=("y", "z")))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_traced_is_an_error():
    with pytest.raises(ExtractionError, match="PyTorch cannot export Branching to ONNX"):
        weightless(Branching().eval(), (torch.rand(2, 4),), PLAIN)


class Fixed(nn.Module):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.batch, 12) + 1


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_size_that_the_network_fixes_is_said(batch, caplog):
    with caplog.at_level(logging.WARNING, logger="slimmable"):
        graph = weightless(Fixed(batch).eval(), (torch.rand(batch, 3, 4),), PLAIN)

    assert "Fixed takes batches of the example's size alone" in caplog.text
    assert parsed(graph.content).graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
