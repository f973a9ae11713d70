"""Networks that are deployed by all means: as one artifact of all widths, and as a native file of each width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.export.artifact import write_artifact
from slimmable.models import build_model
from slimmable.runtime.backends import BackendName

NETWORKS = {
    "mobilenet_v2": ("torchvision:mobilenet_v2", 224),
    "resnet50": ("torchvision:resnet50", 224),
    "mobilenet_v1_cifar": ("slimmable:mobilenet_v1_cifar", 32),
}


WIDTHS = ("0.25", "0.5", "0.75", "1.0", "drawn")


@dataclass
class Case:
    """A network, its widths, the files of both sides, and what was measured."""

    name: str
    net: SlimmableModel
    widths: dict[str, Widths]
    inputs: Tensor
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def artifact(self) -> Path:
        """The file of all widths."""
        return self.folder / f"{self.name}.slim"

    def native(self, width: str, suffix: str) -> Path:
        """The file of one width."""
        return self.folder / f"{self.name}-{width}.{suffix}"


def case(name: str, folder: Path, names: Sequence[str] = WIDTHS, *, size: int | None = None) -> Case:
    """A network with made-up weights and batch-norm statistics measured on noise: all but accuracy is real."""
    known, own = NETWORKS[name]
    side = size or own
    torch.manual_seed(0)
    net = slimmable.convert(build_model(known, num_classes=1000).model, torch.randn(2, 3, side, side)).eval()
    drawn = net.space.random(Random(0))
    widths = {name: drawn if name == "drawn" else net.space.uniform(float(name)) for name in names}
    slimmable.calibrate(net, [torch.randn(8, 3, side, side)], list(widths.values()))
    return Case(name, net, widths, torch.randn(2, 3, side, side), folder)


def write(case: Case, backends: list[BackendName]) -> None:
    """The artifact, and a file of its own for each width and runtime."""
    write_artifact(case.net, case.artifact, case.widths, example_inputs=case.inputs, backends=backends)
    for name, widths in case.widths.items():
        plain = case.net.extract(widths, fold_batch_norm=True).eval()
        if {"onnx", "openvino"} & set(backends) and not case.native(name, "onnx").exists():
            dynamic = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                plain,
                (case.inputs,),
                case.native(name, "onnx"),
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
        if "executorch" in backends:
            from slimmable.export.lowering import lowered

            case.native(name, "pte").write_bytes(lowered(plain, (case.inputs,), external=False).program)


# ---------------------------------------------------------------------------------------------------- native sides


def native_onnx(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """A session of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def native_openvino(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """An inference request of OpenVINO, in single precision as ours."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: request.infer([x], share_inputs=True, share_outputs=False)


def native_executorch(path: Path) -> Callable[[np.ndarray], Any]:
    """A program of ExecuTorch, from arrays to arrays as all sides here."""
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    program = _load_for_executorch(str(path))
    return lambda x: [each.numpy() for each in program.forward([torch.from_numpy(x)])]


def native_torch(plain: nn.Module) -> Callable[[np.ndarray], Any]:
    """A plain network in eager mode."""
    plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return plain(torch.from_numpy(x).contiguous(memory_format=torch.channels_last)).numpy()

    return run


def natives(case: Case, backend: BackendName, width: str, threads: int) -> Callable[[np.ndarray], Any]:
    """The natively exported network of a width."""
    match backend:
        case "onnx":
            return native_onnx(case.native(width, "onnx"), threads)
        case "openvino":
            return native_openvino(case.native(width, "onnx"), threads)
        case "executorch":
            return native_executorch(case.native(width, "pte"))
        case "torch":
            return native_torch(case.net.extract(case.widths[width], fold_batch_norm=True).eval())
