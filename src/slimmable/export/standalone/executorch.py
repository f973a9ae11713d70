"""Programs of ExecuTorch with their weights inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from slimmable.export.lowering import lowered
from slimmable.export.standalone.writing import Run
from slimmable.runtime.base import Signature
from slimmable.runtime.executorch import bindings


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path``; what runs it by ExecuTorch's bindings."""
    path.write_bytes(lowered(module, example, external=False).program)
    program = bindings()._load_for_executorch(str(path))

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        return program.forward([each.contiguous() for each in inputs])

    return run
