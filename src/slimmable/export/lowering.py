"""A module lowered to ExecuTorch with XNNPACK, its weights inside the program or beside it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.errors import ExtractionError, MissingDependencyError
from slimmable.export.out_of_place import out_of_place
from slimmable.export.tracing import resized

MAXIMUM_BATCH = 32
"""What XNNPACK does not take over has memory planned for so many; larger batches run in parts."""

_TAG = "weights"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A program of ExecuTorch.

    Attributes:
        program: The ``.pte``.
        data: The ``.ptd``; empty where the weights are in the program.
        batch: The largest batch that it runs, or the only one.
        any_batch: Whether it runs smaller ones.
    """

    program: bytes
    data: bytes
    batch: int
    any_batch: bool


def lowered(module: nn.Module, example: tuple[Tensor, ...], *, external: bool) -> Lowered:
    """The program of a module in evaluation mode, for batches up to 32 unless its code fixes the batch.

    Args:
        module: The network.
        example: What it is called with.
        external: Whether its parameters and buffers lie in a file of their own.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
        ExtractionError: It cannot take the network.
    """
    if module.training:
        raise ExtractionError("the network is in training mode; call .eval() on it first")
    try:
        with quiet():
            import_module("executorch.exir")
    except ImportError as error:
        raise MissingDependencyError(
            f"writing for ExecuTorch needs it installed ({error}); cure: pip install 'slimmable[executorch]'",
            name="executorch",
        ) from error
    try:
        found = _compiled(module, resized(example, 2), external=external, any_batch=True)
        if found.batch == MAXIMUM_BATCH:
            return found
        reason = f"ExecuTorch bounds it by {found.batch}"
    except Exception as error:
        reason = _line(error)
    batch = example[0].shape[0]
    _LOG.warning("%s runs in ExecuTorch at batches of %d only: %s", type(module).__name__, batch, reason)
    try:
        return _compiled(module, example, external=external, any_batch=False)
    except Exception as error:
        raise ExtractionError(
            f"ExecuTorch cannot take {type(module).__name__}: {_line(error)}; leave this runtime out, or change that "
            "part of the network"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _compiled(module: nn.Module, example: tuple[Tensor, ...], *, external: bool, any_batch: bool) -> Lowered:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    with quiet(), torch.no_grad(), _unbounded(), tempfile.TemporaryDirectory() as folder:
        exported = _marked(module, example, external=external, any_batch=any_batch)
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),  # its check would fix the batch at a split
        )
        program: Any = edge.to_executorch(ExecutorchBackendConfig(external_constants=_outside if external else False))
        if external:
            program.write_tensor_data_to_file(folder)
        data = b"".join(each.read_bytes() for each in sorted(Path(folder).iterdir()))
    plan = program.executorch_program.execution_plan[0]
    sizes = [plan.values[each].val.sizes for each in plan.inputs]  # the largest that memory is planned for
    return Lowered(program=program.buffer, data=data, batch=min(each[0] for each in sizes), any_batch=any_batch)


def _marked(
    module: nn.Module, example: tuple[Tensor, ...], *, external: bool, any_batch: bool
) -> torch.export.ExportedProgram:
    """The traced network, its weights marked as external if they are."""
    batch = torch.export.Dim("batch", min=1, max=MAXIMUM_BATCH)
    dynamic = tuple({0: batch} for _ in example) if any_batch else None
    exported = out_of_place(torch.export.export(module, example, dynamic_shapes=dynamic, strict=False))
    if not external:
        return exported
    from executorch.exir.passes.external_constants_pass import delegate_external_constants_pass_unlifted

    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    plain = exported.module(check_guards=False)
    delegate_external_constants_pass_unlifted(plain, lambda node: _TAG if node.target in names else None)
    return torch.export.export(plain, example, dynamic_shapes=dynamic, strict=False)


def _outside(node: fx.Node) -> str | None:
    """The file that what XNNPACK does not take over has a tensor in: that of the others, if it has a name."""
    return _TAG if node.users and node.name.startswith(("p_", "b_")) else None


@contextmanager
def _unbounded() -> Iterator[None]:
    """PyTorch's choice between its own convolutions would bound the batch by 15."""
    with torch.backends.nnpack.flags(enabled=False), torch.backends.mkldnn.flags(enabled=False):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """ExecuTorch warns of its own parts, and older ones look for ``flatc`` on the path only."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["PATH"] = before
