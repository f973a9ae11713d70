"""ONNX Runtime: the graph of a width takes its tensors from memory when a session is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from slimmable.errors import DeploymentError, MissingDependencyError
from slimmable.runtime.base import Arrays, Layout, Options, Signature
from slimmable.runtime.inputs import Input, Inputs
from slimmable.runtime.protobuf import Place, with_references

_TYPES: Final = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types where NumPy has others."""


_KEPT: Final = 128
"""Graphs with references that are kept; each takes some kilobytes."""


class OnnxBackend:
    """Sessions of ONNX Runtime on the CPU.

    The tensors become initializers before ONNX Runtime optimises the graph, so a session is the one that a file with
    these tensors gives: folded, fused, packed, and the same output bit for bit. It keeps none of the arrays.

    Args:
        options: How sessions run.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed, or too old.
    """

    name = "onnx"
    layout = Layout()
    keeps_arrays = False

    def __init__(self, options: Options | None = None) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "running a network without PyTorch needs onnxruntime: pip install 'slimmable[runtime]'"
            ) from error
        if not hasattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory"):
            raise MissingDependencyError(
                f"onnxruntime {onnxruntime.__version__} cannot take tensors from memory, 1.24 and later can: "
                "pip install --upgrade 'slimmable[runtime]'"
            )
        self._onnxruntime: Any = onnxruntime
        self._options = options or Options()
        self._models: dict[Any, bytes] = {}

    def bind(self, graph: bytes, arrays: Arrays, signature: Signature) -> Callable[[], OnnxSession]:
        """What makes sessions from a weight-less graph and tensors by part name; see :class:`slimmable.runtime.base`.

        Raises:
            DeploymentError: When a session is made, ONNX Runtime does not take the graph with these tensors.

        Cost:
            A session, about what loading a file of this width costs.
        """
        tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        places, buffers = _places(tensors)
        return partial(self._made, self._model(graph, tensors, places), tensors, buffers, signature)

    def _made(
        self, model: bytes, tensors: Arrays, buffers: Mapping[str, np.ndarray], signature: Signature
    ) -> OnnxSession:
        try:
            settings = self._settings()
            sizes = [buffer.nbytes for buffer in buffers.values()]
            settings.add_external_initializers_from_files_in_memory(list(buffers), list(buffers.values()), sizes)
            session = self._onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DeploymentError(f"ONNX Runtime cannot build a session from the graph: {error}") from error
        return OnnxSession(session, signature)

    def prepare(self, graph: bytes) -> None:
        """Nothing: a graph is read together with its tensors."""

    def tidy(self) -> None:
        """Nothing: no memory is kept."""

    def _model(self, graph: bytes, tensors: Arrays, places: Mapping[str, Place]) -> bytes:
        """The graph with references to its tensors, kept for the next time that the width is built."""
        key = (graph, *((name, x.shape, x.dtype.num, places[name]) for name, x in tensors.items()))
        known = self._models.get(key)
        if known is None:
            if len(self._models) >= _KEPT:
                self._models.clear()
            known = self._models[key] = with_references(graph, tensors, places)
        return known

    def _settings(self) -> Any:
        settings = self._onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self._options.threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = self._onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.log_severity_level = 3
        # Threads of a session that has nothing to do must not take the cores from the session that has.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        # Processors without instructions for products of bytes would let sums of them overflow unseen.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        # No graph may name a file of this machine as the place of its tensors.
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        return settings


class OnnxSession:
    """A network of one width in ONNX Runtime; any number of threads may run it at once.

    Raises:
        DeploymentError: The graph's inputs or outputs are not those of the signature.
    """

    def __init__(self, session: Any, signature: Signature) -> None:
        found = {each.name: each for each in session.get_inputs()}
        outputs = tuple(each.name for each in session.get_outputs())
        if set(found) != set(signature.inputs) or not set(signature.outputs) <= set(outputs):
            raise DeploymentError(
                f"the graph has inputs {tuple(found)} and outputs {outputs}; "
                f"expected {signature.inputs} and {signature.outputs}"
            )
        self._session: Any = session
        self._inputs = Inputs([_input(found[name]) for name in signature.inputs])
        self._outputs = list(signature.outputs)

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs in order, for arrays in order.

        Raises:
            DeploymentError: The inputs do not fit, the session is closed, or ONNX Runtime fails.
        """
        session = self._session
        if session is None:
            raise DeploymentError("the session is closed; build another one")
        feed = self._inputs.feed(inputs)
        try:
            return session.run(self._outputs, feed)
        except Exception as error:
            raise DeploymentError(f"ONNX Runtime cannot run the network: {error}") from error

    def close(self) -> None:
        """Give back what it holds, once runs that have begun are over."""
        self._session = None


def _places(tensors: Arrays) -> tuple[dict[str, Place], dict[str, np.ndarray]]:
    """Where each tensor lies in which buffer, and the buffers by the names that the graph is to call them."""
    names: dict[int, str] = {}
    buffers: dict[str, np.ndarray] = {}
    places: dict[str, Place] = {}
    for name, array in tensors.items():
        whole = array.base if isinstance(array.base, np.ndarray) and array.base.flags.c_contiguous else array
        if (file := names.get(id(whole))) is None:
            file = names[id(whole)] = f"memory/{len(names)}"
            buffers[file] = whole.reshape(-1).view(np.uint8)
        places[name] = Place(file, _address(array) - _address(buffers[file]))
    return places, buffers


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _input(found: Any) -> Input:
    kind = found.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in found.shape)
    return Input(name=found.name, dtype=np.dtype(_TYPES.get(kind, kind)), shape=shape)
