"""Graphs and sessions of ExecuTorch, with a stand-in for its bindings: what is written, checked, cut into parts."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimmable.errors import ArtifactError, DeploymentError
from slimmable.runtime.executorch_graph import Program, Segment, packed, unpacked
from slimmable.runtime.executorch_session import Data, ExecuTorchSession
from tests.unit.core.oracle import assert_same

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
ARRAYS = {"w": WEIGHT, "b": np.array([7, 8], np.int64)}


def program(**changes: Any) -> Program:
    known: dict[str, Any] = {
        "code": b"code",
        "head": np.arange(16, dtype=np.uint8),
        "size": 160,
        "segments": (
            Segment(24, "w", np.dtype("float32"), (2, 3, 2, 2), (0, 2, 3, 1)),
            Segment(128, "b", np.dtype("int64"), (2,), (0,)),
        ),
        "batch": 4,
        "any_batch": True,
        "inputs": (((2, 3), "float32"),),
        "outputs": 1,
    }
    return Program(**{**known, **changes})


# ------------------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize("strides", ["ordinary", "channels_last", "spread"])
def test_the_file_of_weights_has_every_tensor_in_its_place_and_order_and_zeros_between(strides):
    arrays = dict(ARRAYS)
    if strides == "channels_last":
        arrays["w"] = np.ascontiguousarray(WEIGHT.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if strides == "spread":
        arrays["w"] = np.repeat(WEIGHT, 2, axis=0)[::2]
    found = np.full(200, 255, np.uint8)
    program().fill(found, arrays)
    expected = bytes(range(16)) + bytes(8) + WEIGHT.transpose(0, 2, 3, 1).tobytes() + bytes(8)
    expected += np.array([7, 8], np.int64).tobytes() + bytes(16)
    assert found[:160].tobytes() == expected
    assert (found[160:] == 255).all()


def test_a_graph_is_read_as_it_was_written():
    found = unpacked(packed(program()))
    for name, value in vars(program()).items():
        assert np.array_equal(getattr(found, name), value) if name == "head" else getattr(found, name) == value


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": ARRAYS["b"]}, "'w' is not given, the graph needs float32 of 24 elements"),
        ({"w": WEIGHT[:1], "b": ARRAYS["b"]}, r"'w' is float32 of shape \(1, 3, 2, 2\), the graph needs"),
        ({"w": WEIGHT, "b": ARRAYS["b"].astype(np.int32)}, "'b' is int32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(ArtifactError, match=message):
        program().fill(np.empty(160, np.uint8), arrays)


def described(**changes: Any) -> bytes:
    """A graph whose description says something else."""
    content = packed(program())
    length = int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8 : 8 + length]) | changes).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "it has format 2"),
        ({"program": 5}, "bytes, its parts"),
        ({"program": -1}, "-1 is no size"),
        ({"head": 1 << 40}, "no size"),
        ({"data": 100}, "larger than the file"),
        ({"batch": 0}, "its batch is nothing"),
        ({"batch": True}, "True is no size"),
        ({"segments": [[8, "w", "float32", [1], [0]]]}, "begins within the one before"),
        ({"segments": [[24, "w", "float32", [3, 2], [0, 0]]]}, "is none"),
        ({"segments": [[24, "w", "object", [3], [0]]]}, "is none"),
        ({"segments": [[24, "w", "float32", [1 << 60], [0]]]}, "no size"),
        ({"segments": [[24, "w", "float32"]]}, "missing"),
        ({"inputs": [3]}, "damaged"),
    ],
)
def test_a_damaged_graph_is_refused(changes, message):
    with pytest.raises(ArtifactError, match=message):
        unpacked(described(**changes))


@given(st.data())
def test_a_mutated_graph_is_refused_or_writes_inside_its_file(data):
    content = bytearray(packed(program()))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 17))] = data.draw(st.sampled_from(b'0123456789,[]{}":-'))
    try:
        found = unpacked(bytes(content))
        assert found.size < 10_000
        found.fill(np.empty(found.size, np.uint8), ARRAYS)
    except ArtifactError:
        return


# ----------------------------------------------------------------------------------------------------------- sessions


class Module:
    """A stand-in for ExecuTorch's: it adds the first byte of its weights, and refuses more than four rows.

    Outputs that are not cloned stand in memory that the next run writes.
    """

    def __init__(self, code: bytes, data: bytes) -> None:
        assert code == b"code"
        self.data = data
        self.batches: list[int] = []
        self.memory = torch.zeros(4, 3)

    def forward(self, inputs: Sequence[Tensor], clone_outputs: bool = True) -> list[Any]:
        assert all(each.is_contiguous() for each in inputs)
        self.batches.append(len(inputs[0]))
        if len(inputs[0]) > 4:
            raise RuntimeError("Failed to execute method forward, error: 0x10\nand more")
        found = torch.add(inputs[0], self.data[0], out=self.memory[: len(inputs[0])])
        return [found.clone() if clone_outputs else found, None]


def session(**changes: Any) -> tuple[ExecuTorchSession, list[Data]]:
    data, released = Data(160), []
    its = program(**changes)
    its.fill(data.view, ARRAYS)
    return ExecuTorchSession(Module, its, data, released.append), released


def test_bytes_that_were_handed_over_are_written_again():
    data = Data(5)
    data.view[:] = 3
    assert data.content == b"\3\3\3\3\3"
    data.view[2] = 4
    assert data.content == b"\3\3\4\3\3"


def test_a_session_runs_once_when_it_is_made_and_large_batches_in_parts():
    its, _ = session()
    assert its._module.batches == [1]
    for batch, parts in ((1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])):
        x = torch.randn(3, batch).T
        assert_same(its.run([x]), [x])
        assert its._module.batches[-len(parts) :] == parts
        for again in (x.numpy(), x.numpy().copy("C"), x.numpy().copy("C")):
            assert np.array_equal(its.run([again])[0], again)
            assert its._module.batches[-len(parts) :] == parts


def test_a_network_that_fixes_the_batch_runs_at_that_one():
    its, _ = session(any_batch=False, batch=2, inputs=(((2, 3), "float32"),))
    assert its._module.batches == [2]
    with pytest.raises(DeploymentError, match=r"expected torch.float32 of shape \(2, 3\)"):
        its.run([torch.ones(3, 3)])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_outputs_stay_as_they_are_when_the_session_runs_again(kind):
    its, _ = session()
    found = [its.run([kind(np.full((2, 3), value, np.float32))]) for value in range(4)]
    assert [first.tolist() for (first,) in found] == [[[value] * 3] * 2 for value in range(4)]
    assert {type(first) for (first,) in found} == {type(kind(np.zeros(1)))}


def test_a_closed_session_gives_its_memory_back_once_and_runs_no_more():
    its, released = session()
    its.run([np.ones((1, 3), np.float32)])
    its.close()
    its.close()
    assert len(released) == 1
    for value in (torch.ones(1, 3), np.ones((1, 3), np.float32)):
        with pytest.raises(DeploymentError, match="closed"):
            its.run([value])


def test_what_executorch_refuses_is_an_error_of_ours():
    its, _ = session(batch=8)
    for _ in range(2):
        with pytest.raises(
            DeploymentError, match="fails on these inputs: Failed to execute method forward, error: 0x10;"
        ):
            its.run([np.ones((7, 3), np.float32)])
    with pytest.raises(DeploymentError, match=r"refuses the program: Failed to execute.*built for torch"):
        session(any_batch=False, batch=8)
    with pytest.raises(DeploymentError, match="has 1 outputs, its description says 2"):
        session(outputs=2)
    with pytest.raises(DeploymentError, match="an input of type 'float33'"):
        session(inputs=(((2, 3), "float33"),))
