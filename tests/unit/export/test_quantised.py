"""Graphs in eight bits with weights from one store: as near to the network as its own quantisation."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnxruntime import quantization
from torch import Tensor, nn

from slimmable.errors import CalibrationError, ExtractionError
from slimmable.export.onnx import weightless
from slimmable.export.quantised import Quantised, quantisable, quantised
from slimmable.runtime.base import Options, Signature
from slimmable.runtime.onnx import OnnxBackend
from slimmable.runtime.openvino import OpenVinoBackend
from slimmable.runtime.protobuf import with_tensors
from slimmable.runtime.quantised import layer_tensors, quantise
from tests.unit.export.onnx_networks import build, graph_of

SIGNATURE = Signature(inputs=("x",), outputs=("y",))
FULL = (32, 48, 24)


class Folded(nn.Module):
    """A stem, a depthwise convolution, a residual sum, a gate, linear layers on vectors and on rows."""

    def __init__(self, width: int, wide: int, out: int) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, width, 3, stride=2, padding=1), nn.Conv2d(width, wide, 1)
        self.deep = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project, self.gate = nn.Conv2d(wide, width, 1), nn.Linear(width, width)
        self.rows, self.head = nn.Linear(width, out), nn.Linear(out, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.project(F.relu6(self.deep(F.relu6(self.expand(x)))))
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(F.relu(self.rows(x.flatten(2).transpose(1, 2))).mean(1))


def batches(count: int, seed: int) -> list[tuple[np.ndarray]]:
    random = np.random.default_rng(seed)
    return [(random.normal(size=(8, 3, 16, 16)).astype(np.float32),) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A full layer: weight without batch norm, the same in eight bits, and what each channel is multiplied by."""

    weight: np.ndarray
    integers: np.ndarray
    steps: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@cache
def store() -> dict[str, Stored]:
    """Full layers by name."""
    torch.manual_seed(0)
    random, found = np.random.default_rng(0), {}
    for name, layer in Folded(*FULL).named_children():
        weight, bias = (each.detach().numpy() for each in layer.parameters())
        integers, steps = quantise(weight)
        scale = np.float32(random.choice([-1, 1, 1, 1], len(weight)) * random.uniform(0.3, 2, len(weight)))
        found[name] = Stored(weight=weight, integers=integers, steps=steps, scale=scale, bias=bias)
    return found


@cache
def narrow(widths: tuple[int, int, int]) -> nn.Module:
    """The network of a width: the first channels of the full weights, times the scales."""
    net = Folded(*widths).eval()
    for name, layer in net.named_children():
        weight, bias = layer.parameters()
        full, out = store()[name], len(weight)
        kept = full.weight[tuple(slice(size) for size in weight.shape)]
        weight.data.copy_(torch.from_numpy(kept * full.scale[:out].reshape(-1, *(1 for _ in weight.shape[1:]))))
        bias.data.copy_(torch.from_numpy(full.bias[:out]))
    return net


@cache
def export(widths: tuple[int, int, int]) -> Quantised:
    return quantised(narrow(widths), (torch.zeros(2, 3, 16, 16),), SIGNATURE, batches(4, 1))


def arrays_of(found: Quantised, net: nn.Module) -> dict[str, np.ndarray]:
    """What a graph takes, from the store."""
    parameters = {name: each.detach().numpy() for name, each in net.named_parameters()}
    arrays = {**{name: parameters[name] for name in found.graph.parts}, **found.graph.extra}
    for layer in found.layers:
        full, shape = store()[layer.weight.removesuffix(".weight")], parameters[layer.weight].shape
        arrays |= layer_tensors(
            layer,
            full.integers[tuple(slice(size) for size in shape)],
            full.steps[: shape[0]],
            scale=full.scale[: shape[0]],
            bias=None if layer.bias is None else full.bias[: shape[0]],
        )
    return arrays


def own_quantisation(net: nn.Module, path: Path) -> Path:
    """The network as ONNX Runtime quantises it, with weights of its own."""
    graph = weightless(net, (torch.zeros(2, 3, 16, 16),), SIGNATURE)
    parameters = {name: each.detach().numpy() for name, each in net.named_parameters()}
    path.write_bytes(with_tensors(graph.content, parameters))

    class Reader(quantization.CalibrationDataReader):
        left = iter(batches(4, 1))

        def get_next(self):
            return next(({"x": each} for (each,) in self.left), None)

    kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    quantization.quantize_static(path, path.with_suffix(".int8"), Reader(), per_channel=True, **kinds)
    return path.with_suffix(".int8")


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    return 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())


@pytest.mark.parametrize("widths", [(16, 24, 8), (9, 48, 5)], ids=str)
def test_the_shared_store_loses_less_than_a_decibel(widths, tmp_path):
    net, found, (x,) = narrow(widths), export(widths), batches(1, 2)[0]
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    own = onnxruntime.InferenceSession(own_quantisation(net, tmp_path / "own.onnx"))

    (ours,) = OnnxBackend().bind(found.graph.content, arrays_of(found, net), SIGNATURE)().run([x])

    assert decibels(ours, expected) >= decibels(own.run(None, {"x": x})[0], expected) - 1
    assert not found.floating
    assert set(found.graph.parts) == {"rows.bias"}  # added behind a product of matrices


def test_openvino_reads_the_same_graph():
    widths = (16, 24, 8)
    net, found, (x,) = narrow(widths), export(widths), batches(1, 2)[0]
    arrays = arrays_of(found, net)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()

    (ours,) = OpenVinoBackend(Options()).bind(found.graph.content, arrays, SIGNATURE)().run([x])

    assert decibels(ours, expected) > 25


def test_all_weights_of_a_width_come_from_the_store():
    found = export((16, 24, 8))

    assert {each.weight for each in found.layers} == {f"{name}.weight" for name in store()}
    assert {each.weight for each in found.layers if each.turned} == {"rows.weight"}
    assert all(each.input_scale > 0 for each in found.layers)
    assert not any(len(each) > 2000 for each in found.graph.extra.values())
    assert len(found.graph.content) < 12_000


def test_the_graph_has_the_names_of_no_machine_or_quantiser():
    content = export((16, 24, 8)).graph.content

    for word in (b"/tmp", b"onnx.quant", b"onnxruntime", b"_quantized", b"QuantizeLinear_"):
        assert word not in content.replace(b"DequantizeLinear", b"")


def test_layers_that_are_not_in_the_store_stay_as_they_are():
    net = narrow((16, 24, 8))

    found = quantised(
        net, (torch.zeros(2, 3, 16, 16),), SIGNATURE, batches(1, 1), weights=["expand.weight", "head.weight"]
    )

    assert [each.weight for each in found.layers] == ["expand.weight", "head.weight"]
    assert found.floating == ("deep.weight", "gate.weight", "project.weight", "rows.weight", "stem.weight")
    (x,) = batches(1, 2)[0]
    (ours,) = OnnxBackend().bind(found.graph.content, arrays_of(found, net), SIGNATURE)().run([x])
    assert decibels(ours, net(torch.from_numpy(x)).detach().numpy()) > 25


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("joined", {"stem", "side", "again", "grouped", "hidden", "head"}),
        ("upward", {"down"}),
        ("attending", {"embed", "mix.in_proj", "mix.out_proj", "qkv", "back", "wide", "thin"}),
        ("several", {"mix", "join", "head"}),
    ],
)
def test_what_can_be_stored_in_eight_bits(name, expected):
    """Not transposed convolutions, tables of words, or weights that two layers share: first and second."""
    found = quantisable(graph_of(name))

    assert {each.removesuffix("weight").rstrip("._") for each in found} == expected


def test_what_cannot_be_done_is_said():
    case = build("upward")
    inputs = [tuple(case.inputs(2))]

    with pytest.raises(ExtractionError, match=r"up\.weight: no convolution or linear layer alone reads"):
        quantised(case.module, case.example, case.signature, inputs, weights=["down.weight", "up.weight"])
    with pytest.raises(CalibrationError, match="no batches"):
        quantised(case.module, case.example, case.signature, [])
