"""OpenVINO's own files, made from the ONNX model; weights keep their precision."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimmable.export.standalone.onnx import model
from slimmable.export.standalone.writing import Run
from slimmable.runtime.base import Signature


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path`` and the file of its weights beside it; what runs them on the CPU."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(model(module, example, signature))
        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    core: Any = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([each.numpy() for each in inputs])
        return [torch.from_numpy(np.array(found[at])) for at in range(len(compiled.outputs))]

    return run
