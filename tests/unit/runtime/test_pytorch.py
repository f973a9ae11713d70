"""Networks that run from their weight-less graph in PyTorch: the extracted network in channels_last, bit for bit."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slimmable.core.operators import RULES
from slimmable.errors import ArtifactError, DeploymentError
from slimmable.export.pytorch import weightless
from slimmable.runtime.base import Options, Session, Signature
from slimmable.runtime.pytorch import TorchBackend
from slimmable.runtime.tensor_operators import _FUNCTIONS, ALLOWED, resolved
from slimmable.runtime.tensor_program import read
from slimmable.runtime.tensor_session import TensorSession
from tests.unit.core.oracle import assert_same
from tests.unit.export.networks import CASES, Case, Writing, arrays_of, channels_last, narrowed, signature

BACKEND = TorchBackend(Options(threads=1))
ONE = Signature(inputs=("x",), outputs=("y",))


def built(module: nn.Module, case: Case) -> Session:
    graph = weightless(module, case.inputs(2), signature(case))
    return BACKEND.bind(graph.content, arrays_of(module, graph), signature(case))()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_extracted_network_bit_for_bit(name, seed):
    case = CASES[name]
    module = narrowed(case, seed)
    session = built(module, case)
    for batch in (1, 2, 7):
        inputs = case.inputs(batch)
        expected = channels_last(module, inputs)
        assert_same(session.run(inputs), expected)
        found = session.run([each.numpy() for each in inputs])
        assert all(isinstance(each, np.ndarray) for each in found)
        assert_same([torch.from_numpy(each) for each in found], expected)


def test_what_a_network_writes_into_or_returns_is_its_own():
    case = Case(Writing, lambda batch: (torch.ones(batch, 4, 3, 3),), outputs=3)
    module = Writing().eval()
    session = built(module, case)
    inputs = case.inputs(3)
    expected = channels_last(module, tuple(each.clone() for each in inputs))
    for given_ in (inputs, tuple(each.to(memory_format=torch.channels_last) for each in inputs)):
        y, view, weight = session.run(given_)
        assert_same([y, view, weight], expected)
        assert torch.equal(given_[0], torch.ones(3, 4, 3, 3))
        with torch.inference_mode():
            weight.zero_()
            view.zero_()


def lain(array: np.ndarray, order: str) -> np.ndarray:
    """The array in a memory order."""
    if order == "spread":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    if order == "channels_last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array)


def test_arrays_may_lie_in_any_order_and_are_not_copied_in_that_which_the_backend_declares():
    case = CASES["mobile"]
    module = narrowed(case)
    graph = weightless(module, case.inputs(2), signature(case))
    x = case.inputs(3)
    expected = channels_last(module, x)
    for order in ("contiguous", "channels_last", "spread"):
        arrays = {name: lain(each, order) for name, each in arrays_of(module, graph).items()}
        for each in arrays.values():
            each.flags.writeable = False
        assert_same(BACKEND.bind(graph.content, arrays, signature(case))().run(x), expected)
    arrays = {name: lain(each, BACKEND.layout.order).copy("K") for name, each in arrays_of(module, graph).items()}
    session = BACKEND.bind(graph.content, arrays, signature(case))()
    for each in arrays.values():
        each[...] = 0
    assert not session.run(x)[0].any()


def test_a_session_is_safe_in_several_threads():
    case = CASES["mobile"]
    session = built(narrowed(case), case)
    inputs = [case.inputs(batch) for batch in (1, 2, 3, 4) * 5]
    alone = [session.run(each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(session.run, inputs), alone, strict=True):
            assert_same(found, expected)


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_a_run_has_its_number_of_threads_and_leaves_that_of_others(asked, monkeypatch):
    seen: list[int] = []

    class Watching(TensorSession):
        def _run(self, inputs: Any) -> list[Any]:
            seen.append(torch.get_num_threads())
            raise KeyboardInterrupt

    monkeypatch.setattr("slimmable.runtime.tensor_session.TensorSession", Watching)
    graph = weightless(nn.ReLU().eval(), (torch.ones(2, 3),), ONE)
    session = TorchBackend(Options(threads=asked)).bind(graph.content, {}, ONE)()
    with pytest.raises(KeyboardInterrupt):
        session.run([torch.ones(1, 3)])
    assert seen == [asked or torch.get_num_threads()]
    assert torch.get_num_threads() == 1


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[: x.shape[0] // 2 * 2 - x.shape[0] % 3]


def test_inputs_that_do_not_fit_are_refused():
    session = built(narrowed(CASES["several"]), CASES["several"])
    x, other = CASES["several"].inputs(2)
    for inputs, message in [
        ([x], "takes 2 inputs, got 1"),
        ([x, other[:1]], r"input 1 is torch.float32 of shape \(1, 5\).*\(batch, 5\), the batch being the same"),
        (
            [x[:, :2], other],
            r"input 0 is torch.float32 of shape \(2, 2\); expected torch.float32 of shape \(batch, 3\)",
        ),
        ([x.double(), other], "input 0 is torch.float64"),
        ([x.numpy().astype(">f4"), other], "input 0 cannot be a tensor"),
        ([x.tolist(), other], "input 0 is a list; expected a numpy array or a torch tensor"),
        ([x.to("meta"), other], "input 0 is on meta"),
        ([x[0, 0], other], "input 0 is torch.float32 of shape"),
    ]:
        with pytest.raises(DeploymentError, match=message):
            session.run(inputs)
    assert_same(session.run([x.numpy()[::-1], other]), session.run([x.flip(0), other]))
    session.close()
    with pytest.raises(DeploymentError, match="closed"):
        session.run([x, other])
    graph = weightless(Fixed().eval(), (torch.ones(4, 3),), ONE)
    with pytest.raises(DeploymentError, match=r"expected torch.float32 of shape \(4, 3\)"):
        BACKEND.bind(graph.content, {}, ONE)().run([torch.ones(3, 3)])


def test_arrays_that_do_not_fit_are_refused():
    module = nn.Linear(3, 2).eval()
    graph = weightless(module, (torch.ones(2, 3),), ONE)
    arrays = arrays_of(module, graph)
    for changed, message in [
        ({}, "reads the tensor 'weight', which was not given"),
        (arrays | {"bias": np.zeros(3, np.float32)}, r"'bias' is float32 of shape \(3,\), the graph says float32"),
        (arrays | {"bias": np.zeros(2)}, "'bias' is float64"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            BACKEND.bind(graph.content, changed, ONE)()
    with pytest.raises(ArtifactError, match="1 inputs and 1 outputs, the artifact says 2 and 1"):
        BACKEND.bind(graph.content, arrays, Signature(inputs=("a", "b"), outputs=("y",)))()


# ----------------------------------------------------------------------------------------------------- damaged graphs


JOINED = CASES["joined"]
_MODULE = narrowed(JOINED)
_GRAPH = weightless(_MODULE, JOINED.inputs(2), signature(JOINED))
GRAPH, ARRAYS = json.loads(_GRAPH.content), arrays_of(_MODULE, _GRAPH)


def refused(graph: Any, message: str = "damaged") -> None:
    with pytest.raises(ArtifactError, match=message):
        read(graph if isinstance(graph, bytes) else json.dumps(graph).encode())


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.from_file.out",
        "aten.save.default",
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "aten.as_strided.default",
        "aten.add.out",
        "aten.empty.memory_format",
        "aten._unsafe_index.Tensor",
        "aten.no_such.default",
        "aten.relu",
        "aten.relu.no",
        "aten.relu.__class__",
        "aten.relu.default.decompose",
        "prims.add.default",
        "os.system.default",
        "",
    ],
)
def test_operators_that_do_more_than_compute_are_refused(name):
    with pytest.raises(ValueError, match="not allowed"):
        resolved(name)
    graph = json.loads(json.dumps(GRAPH))
    graph["calls"][0][0] = name
    refused(graph, "not allowed in a graph")


def test_no_allowed_operator_takes_the_name_of_a_file_or_memory_of_its_own():
    kinds: set[str] = set()
    for name in ALLOWED:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            try:
                found = resolved(f"aten.{name}.{overload}")
            except ValueError:
                continue
            kinds |= {str(each.type) for each in found._schema.arguments}
            assert not [each for each in found._schema.arguments if "file" in each.name]
    assert not [each for each in kinds if "Storage" in each or "Stream" in each or "Any" in each or "torch" in each]


def test_every_operator_that_conversion_knows_is_allowed_unless_it_is_for_training_or_reads_what_nobody_wrote():
    left_out = {"bernoulli", "bernoulli_", "empty_like", "new_empty", "float", "lp_pool2d", "sym_size", "sym_numel"}
    checks = {"_assert_tensor_metadata", "_assert_async"}
    known = {name.split(".")[1] for name in RULES if name.startswith("aten.")}
    assert {name for name in known if not {name, name.removesuffix("_")} & ALLOWED} == left_out | checks


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_the_short_way_to_an_operator_takes_its_arguments_in_the_same_order(name):
    assert resolved(name)
    assert not [each for each in resolved(name)._schema.arguments if each.kwarg_only and not each.has_default_value()]


def test_every_missing_piece_of_a_graph_is_noticed():
    for key in GRAPH:
        refused({name: value for name, value in GRAPH.items() if name != key})
    for content in (b"", b"nothing", b"3", b"[]", b"{}", b"\xff", b"[" * 100_000):
        refused(content)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 2, "it has format 2"),
        (("inputs",), [], "no earlier value"),
        (("outputs",), [], "no inputs or no outputs"),
        (("outputs",), [10_000], "no earlier value"),
        (("outputs",), [-1], "no earlier value"),
        (("calls", 0, 1, "input", "node"), 100, "no earlier value"),
        (("calls", 0, 1, "input"), {"node": True}, "no earlier value"),
        (("calls", 0, 1, "stride"), [1 << 40, 1], "no whole number"),
        (("calls", 0, 1, "stride"), {"layout": "sparse_coo"}, "no layout"),
        (("calls", 0, 1, "stride"), {"dtype": "load"}, "no dtype"),
        (("calls", 0, 1, "stride"), {"memory_format": "nn"}, "no memory_format"),
        (("calls", 0, 1, "unknown"), 1, "has no arguments"),
        (("calls", 0, 1), {}, "is not given"),
        (("tensors", 0, 0), 3, "is no name"),
        (("tensors", 0, 1), [-1], "is no shape"),
        (("tensors", 0, 2), "float33", "float33"),
        (("tensors", 0, 3), "other", "no kind"),
        (("calls", 0), ["aten.relu_.default", {"self": {"node": 1}}], "writes into the network's own tensors"),
    ],
)
def test_a_wrong_piece_of_a_graph_is_noticed(place, value, message):
    graph = json.loads(json.dumps(GRAPH))
    *path, last = place
    inner = graph
    for key in path:
        inner = inner[key]
    inner[last] = value
    refused(graph, message)


@given(st.data())
def test_a_mutated_graph_is_refused_or_runs_or_fails_with_an_error_of_ours(data):
    content = bytearray(json.dumps(GRAPH).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from(b'0123456789,[]{}":aet._-'))
    with suppress(ArtifactError, DeploymentError):
        BACKEND.bind(bytes(content), ARRAYS, signature(JOINED))().run(JOINED.inputs(1))


# ------------------------------------------------------------------------------------------------------------ switching


def test_a_graph_is_read_once(monkeypatch):
    import slimmable.runtime.tensor_program as program

    module = nn.Linear(3, 2).eval()
    graph = weightless(module, (torch.ones(2, 3),), ONE)
    reads = []
    monkeypatch.setattr(program, "read", lambda content: reads.append(content) or read(content))
    backend = TorchBackend(Options())
    backend.prepare(graph.content)
    for _ in range(3):
        backend.bind(bytes(bytearray(graph.content)), arrays_of(module, graph), ONE)()
    assert len(reads) == 1


def test_the_module_of_the_backend_imports_no_torch():
    code = "import sys, slimmable.runtime.pytorch, slimmable.runtime.base\nprint('torch' in sys.modules)"
    folder = Path(__file__).parents[3] / "src"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"
