"""The backends by their names; each loads when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from slimmable.errors import DeploymentError
from slimmable.runtime.base import Backend, Options

BackendName = Literal["onnx", "openvino", "executorch", "torch"]


def graphs_of(backend: BackendName) -> str:
    """The kind of graph that a backend runs: OpenVINO reads ONNX."""
    return "onnx" if backend == "openvino" else backend


def backends_from(text: str) -> tuple[BackendName, ...]:
    """Names of backends, separated by commas.

    Raises:
        DeploymentError: There is none of that name.

    >>> backends_from("onnx,torch")
    ('onnx', 'torch')
    """
    return tuple(backend_from(name.strip()) for name in text.split(","))


def backend_from(name: str) -> BackendName:
    """The name of a backend.

    Raises:
        DeploymentError: There is none of that name.
    """
    if name not in _BACKENDS:
        raise DeploymentError(f"there is no backend {name!r}; expected one of {', '.join(_BACKENDS)}")
    return name  # pyright: ignore[reportReturnType]  checked above


def backend_named(name: BackendName, options: Options) -> Backend:
    """A backend by its name.

    Raises:
        DeploymentError: There is none of that name.
        MissingDependencyError: It is not installed.
    """
    return _BACKENDS[backend_from(name)](options)


def _onnx(options: Options) -> Backend:
    from slimmable.runtime.onnx import OnnxBackend

    return OnnxBackend(options)


def _openvino(options: Options) -> Backend:
    from slimmable.runtime.openvino import OpenVinoBackend

    return OpenVinoBackend(options)


def _executorch(options: Options) -> Backend:
    from slimmable.runtime.executorch import ExecuTorchBackend

    return ExecuTorchBackend(options)


def _torch(options: Options) -> Backend:
    from slimmable.runtime.pytorch import TorchBackend

    return TorchBackend(options)


_BACKENDS: dict[str, Callable[[Options], Backend]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "executorch": _executorch,
    "torch": _torch,
}
