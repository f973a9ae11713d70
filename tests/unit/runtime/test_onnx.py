"""Sessions of ONNX Runtime and OpenVINO from weight-less graphs: bit for bit what an ordinary file gives."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest

from slimmable.errors import DeploymentError, MissingDependencyError
from slimmable.runtime.base import Backend, Options, Session, Signature
from slimmable.runtime.onnx import OnnxBackend
from slimmable.runtime.openvino import OpenVinoBackend
from slimmable.runtime.protobuf import Place, with_references
from tests.unit.export.onnx_networks import NAMES, Case, build, export_natively, graph_of

BACKENDS = (OnnxBackend, OpenVinoBackend)


@pytest.fixture(params=BACKENDS, ids=lambda each: each.name)
def backend(request) -> Backend:
    return request.param(Options(threads=1))


@pytest.fixture(scope="session")
def native_files(tmp_path_factory):
    """Ordinary files by the name of the network."""
    folder = tmp_path_factory.mktemp("native")
    return cache(lambda name: export_natively(build(name), folder / f"{name}.onnx"))


def session_of(backend: Backend, name: str) -> tuple[Session, Case]:
    case, graph = build(name), graph_of(name)
    return backend.bind(graph.content, case.arrays(graph), case.signature)(), case


def run_natively(kind: str, path: Path, case: Case, inputs: list[np.ndarray]) -> list[np.ndarray]:
    feed = dict(zip(case.signature.inputs, inputs, strict=True))
    if kind == "onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(path, options).run(case.signature.outputs, feed)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    found = compiled(feed)
    return [found[name] for name in case.signature.outputs]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_an_ordinary_file(backend, name, native_files):
    session, case = session_of(backend, name)

    for batch in (1, 5):
        inputs = case.inputs(batch)
        found = session.run(inputs)

        expected = run_natively(backend.name, native_files(name), case, inputs)
        assert len(found) == len(expected) == len(case.signature.outputs)
        for ours, theirs, original in zip(found, expected, case.outputs(inputs), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_allclose(ours, original, rtol=0, atol=1e-4 * max(1, np.abs(original).max()))


@pytest.mark.parametrize("name", NAMES)
def test_arrays_can_be_used_again_once_a_session_is_built(backend, name):
    case, graph = build(name), graph_of(name)
    arrays = case.arrays(graph)
    arrays = {name: arrays[name].copy() for name in arrays}
    inputs = case.inputs(2)
    session = backend.bind(graph.content, arrays, case.signature)()
    before = session.run(inputs)

    for array in arrays.values():
        array.reshape(-1).view("u1")[...] = 255

    for ours, theirs in zip(session.run(inputs), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_inputs_and_outputs_stay_when_the_session_runs_again(backend):
    session, case = session_of(backend, "inverted")
    (x,) = case.inputs(2)
    given = x.copy()
    (first,) = session.run([x])
    kept = first.copy()

    session.run(case.inputs(2))

    np.testing.assert_array_equal(x, given)
    np.testing.assert_array_equal(first, kept)


def test_threads_may_run_a_session_at_once(backend):
    session, case = session_of(backend, "inverted")
    inputs = [case.inputs(1 + index % 3) for index in range(24)]
    expected = [session.run(each) for each in inputs]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.run, inputs))

    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_arrays_that_do_not_lie_in_order_are_taken(backend):
    case, graph = build("inverted"), graph_of("inverted")
    (x,) = case.inputs(3)
    turned = {name: np.asarray(array, order="F") for name, array in case.arrays(graph).items()}

    found = backend.bind(graph.content, turned, case.signature)().run([np.asarray(x, order="F")])

    np.testing.assert_array_equal(found[0], session_of(backend, "inverted")[0].run([x])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words, numbers: [words], r"takes 2 inputs \(words_in, numbers\); it was given 1"),
        (lambda words, numbers: [words, numbers.astype("d")], r"float32 of shape \(any, 3\); it was given float64"),
        (lambda words, numbers: [words, numbers[:, :2]], r"'numbers' takes .* \(any, 3\); .* of shape \(2, 2\)"),
        (lambda words, numbers: [words[0], numbers], r"'words_in' takes int64 of shape \(any, 7\)"),
        (lambda words, numbers: [words, numbers[:1]], r"the batch; found sizes \[1, 2\]"),
    ],
    ids=["number", "type", "size", "dimensions", "batch"],
)
def test_inputs_that_do_not_fit_are_an_error(backend, change, message):
    session, case = session_of(backend, "several")

    with pytest.raises(DeploymentError, match=message):
        session.run(change(*case.inputs(2)))


def test_words_that_are_not_in_the_table_are_an_error():
    session, case = session_of(OnnxBackend(), "several")
    words, numbers = case.inputs(2)

    with pytest.raises(DeploymentError, match="cannot run the network"):
        session.run([words + 1000, numbers])


def test_a_closed_session_does_not_run(backend):
    session, case = session_of(backend, "inverted")
    session.close()
    session.close()

    with pytest.raises(DeploymentError, match="closed"):
        session.run(case.inputs(1))


def test_a_graph_and_tensors_that_do_not_fit_are_an_error(backend):
    case, graph = build("inverted"), graph_of("inverted")
    arrays = case.arrays(graph)
    other = {**arrays, "head.weight": arrays["head.weight"][:, 1:]}
    fewer = {name: array for name, array in arrays.items() if name != "head.weight"}

    for content, given in (
        (graph.content[:-30], arrays),
        (b"no graph", arrays),
        (graph.content, other),
        (graph.content, fewer),
    ):
        with pytest.raises(DeploymentError, match="the graph"):
            backend.bind(content, given, case.signature)()
    with pytest.raises(DeploymentError, match=r"expected \('z',\)"):
        backend.bind(graph.content, arrays, Signature(inputs=("z",), outputs=case.signature.outputs))()
    with pytest.raises(DeploymentError, match="complex64"):
        backend.bind(graph.content, {**arrays, "head.weight": np.ones((2, 2), "complex64")}, case.signature)()


def test_a_graph_cannot_read_files(backend, tmp_path, monkeypatch):
    case, graph = build("inverted"), graph_of("inverted")
    arrays = case.arrays(graph)
    weight = {"head.weight": arrays.pop("head.weight")}
    monkeypatch.chdir(tmp_path)
    Path("memory").write_bytes(os.urandom(weight["head.weight"].nbytes))

    with pytest.raises(DeploymentError):
        backend.bind(
            with_references(graph.content, weight, {"head.weight": Place("memory", 0)}), arrays, case.signature
        )()


def test_a_version_that_takes_no_tensors_from_memory_is_named(monkeypatch):
    monkeypatch.delattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory")
    with pytest.raises(MissingDependencyError, match=r"cannot take tensors from memory, 1\.24 and later can"):
        OnnxBackend()
