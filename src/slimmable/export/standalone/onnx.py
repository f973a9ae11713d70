"""ONNX files: the weight-less graph with its tensors put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.export.onnx import weightless
from slimmable.export.standalone.writing import Run
from slimmable.runtime.base import Signature

_LARGEST = (1 << 31) - 1
"""Bytes of a protobuf."""


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path``; what runs it in ONNX Runtime."""
    import onnxruntime

    path.write_bytes(model(module, example, signature))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        fed = {name: each.numpy() for name, each in zip(signature.inputs, inputs, strict=True)}
        found: Any = session.run(list(signature.outputs), fed)
        return [torch.from_numpy(np.asarray(each)) for each in found]

    return run


def model(module: nn.Module, example: tuple[Tensor, ...], signature: Signature) -> bytes:
    """The ONNX model of a network.

    Raises:
        ExtractionError: The network cannot be exported, or is larger than a protobuf may be.
    """
    import onnx

    graph = weightless(module, example, signature)
    tensors = {name: each.detach() for name, each in (*module.named_parameters(), *module.named_buffers())}
    arrays = {name: tensors[name].cpu().contiguous().numpy() for name in graph.parts} | dict(graph.extra)
    if sum(each.nbytes for each in arrays.values()) + len(graph.content) > _LARGEST:
        raise ExtractionError("a network of more than two gigabytes does not fit into one ONNX file")
    found = onnx.load_model_from_string(graph.content)
    found.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in arrays.items())
    onnx.checker.check_model(found)
    return found.SerializeToString(deterministic=True)
