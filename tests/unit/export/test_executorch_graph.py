"""ExecuTorch's programs without weights: with those of the module they are what ExecuTorch itself writes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slimmable.errors import DeploymentError, ExtractionError
from slimmable.export.executorch import weightless
from slimmable.export.graph import Graph
from slimmable.export.lowering import Lowered, lowered
from slimmable.runtime.base import Options
from slimmable.runtime.executorch import ExecuTorchBackend
from slimmable.runtime.executorch_graph import unpacked
from tests.unit.core.oracle import assert_same
from tests.unit.export.networks import CASES, Case, arrays_of, narrowed, signature

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["mobile", "joined"])
def written(request) -> tuple[Case, nn.Module, Graph, Lowered]:
    """A network, its graph, and what ExecuTorch writes of it with the weights beside the program."""
    case = CASES[request.param]
    module = narrowed(case)
    return case, module, weightless(module, case.inputs(2), signature(case)), _beside(module, case)


def _beside(module: nn.Module, case: Case) -> Lowered:
    return lowered(copy.deepcopy(module), case.inputs(3), external=True)


def test_program_and_weights_are_those_that_executorch_writes(written):
    _, module, graph, native = written
    program = unpacked(graph.content)
    assert program.code == native.program
    found = np.full(program.size, 255, np.uint8)
    program.fill(found, arrays_of(module, graph))
    assert found.tobytes() == native.data
    assert (program.batch, program.any_batch) == (32, True)


def test_a_graph_holds_no_weights(written):
    _, module, graph, _ = written
    assert set(graph.parts) <= {name for name, _ in module.named_parameters()}
    assert not graph.extra
    for name in graph.parts:
        assert arrays_of(module, graph)[name].tobytes() not in graph.content


def test_outputs_are_those_of_the_program_with_its_weights_bit_for_bit(written):
    case, module, graph, _ = written
    backend = ExecuTorchBackend(Options(threads=1))
    try:
        session = backend.bind(graph.content, arrays_of(module, graph), signature(case))()
    except DeploymentError as error:
        pytest.skip(f"its bindings do not run here: {error}")
    whole = lowered(module, case.inputs(2), external=False)
    native: Any = backend._load(whole.program)
    for batch in (1, 2, 5, 32):
        inputs = case.inputs(batch)
        found = session.run(inputs)
        assert_same(found, native.forward(list(inputs)))
        with torch.no_grad():
            torch.testing.assert_close(found[0], module(*inputs), rtol=1e-4, atol=1e-4)
    assert_same(session.run(case.inputs(40))[0][:32], session.run([case.inputs(40)[0][:32]]))
    with pytest.raises(DeploymentError, match="one pool of threads for the process, now 1, and 1 sessions use it"):
        ExecuTorchBackend(Options(threads=3))
    session.close()


def test_training_mode_and_what_is_no_tensor_are_refused():
    case = CASES["mobile"]
    with pytest.raises(ExtractionError, match="training mode"):
        weightless(nn.Linear(3, 3), (torch.ones(2, 3),), signature(case))
    with pytest.raises(ExtractionError, match="expected 1 tensors as the example, got 2 values"):
        weightless(nn.Linear(3, 3).eval(), (torch.ones(2, 3), 4), signature(case))


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_lowered_is_named():
    with pytest.raises(ExtractionError, match="ExecuTorch cannot take Branching"):
        weightless(Branching().eval(), (torch.ones(2, 3),), signature(CASES["mobile"]))
