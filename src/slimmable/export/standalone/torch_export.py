"""Programs of ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.export.standalone.writing import Run
from slimmable.export.tracing import resized
from slimmable.runtime.base import Signature

_LOG = logging.getLogger(__name__)


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path``; what runs it in PyTorch."""
    found = exported(module, example)
    found.example_inputs = None  # they can be larger than the network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(found, path)
        program = torch.export.load(path).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = program(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


def exported(module: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The program of a network, for any batch size unless its code fixes it, without a trace of this machine.

    Raises:
        ExtractionError: ``torch.export`` cannot trace it.
    """
    try:
        any_batch = tuple({0: torch.export.Dim("batch", min=1, max=1 << 20)} for _ in example)
        found = _traced(module, resized(example, 2), any_batch)
    except Exception as first:
        reason = (str(first).strip() or repr(first)).splitlines()[0]
        _LOG.warning("%s is written for batches of %d only: %s", type(module).__name__, example[0].shape[0], reason)
        try:
            found = _traced(module, example, None)
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise ExtractionError(f"torch.export cannot trace {type(module).__name__}: {reason}") from error
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return found


def _traced(
    module: nn.Module, example: tuple[Tensor, ...], dynamic: tuple[dict[int, torch.export.Dim], ...] | None
) -> torch.export.ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
