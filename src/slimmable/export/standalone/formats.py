"""The formats of single files, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["onnx", "openvino", "executorch", "torch-export", "aot-inductor", "safetensors"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of a network of one width.

    Attributes:
        name: What it is called.
        suffix: What a file's name ends with.
        packages: What must be installed to write it, beside PyTorch: names as imported.
        install: What installs them; empty where PyTorch is enough.
        about: What it is, in a line.
    """

    name: FormatName
    suffix: str
    packages: tuple[str, ...] = ()
    install: str = ""
    about: str


_ALL = (
    Format(
        name="onnx",
        suffix=".onnx",
        packages=("onnx", "onnxscript", "onnxruntime"),
        install="slimmable[export]",
        about="ONNX, for ONNX Runtime and many others",
    ),
    Format(
        name="openvino",
        suffix=".xml",
        packages=("onnx", "onnxscript", "openvino"),
        install="slimmable[export,openvino]",
        about="OpenVINO IR: the graph, and a .bin of the same name beside it",
    ),
    Format(
        name="executorch",
        suffix=".pte",
        packages=("executorch",),
        install="slimmable[executorch]",
        about="a program of ExecuTorch with XNNPACK, for phones",
    ),
    Format(name="torch-export", suffix=".pt2", about="a program of torch.export, which torch.export.load reads"),
    Format(
        name="aot-inductor",
        suffix=".pt2",
        about="machine code of this processor, which torch._inductor.aoti_load_package reads; needs a C++ compiler",
    ),
    Format(
        name="safetensors",
        suffix=".safetensors",
        about="plain tensors, which slimmable.export.standalone.load_tensors puts into the original network",
    ),
)

FORMATS: dict[FormatName, Format] = {each.name: each for each in _ALL}
"""All formats by name."""
