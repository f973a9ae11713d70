"""OpenVINO: reads the ONNX graph of a width together with its tensors, from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from slimmable.errors import DeploymentError, MissingDependencyError
from slimmable.runtime.base import Arrays, Layout, Options, Signature
from slimmable.runtime.inputs import Input, Inputs
from slimmable.runtime.protobuf import names_files, with_tensors


class OpenVinoBackend:
    """Compiled networks of OpenVINO on the CPU, in float32.

    Args:
        options: How sessions run.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """

    name = "openvino"
    layout = Layout()
    keeps_arrays = False

    def __init__(self, options: Options | None = None) -> None:
        try:
            import openvino
            import openvino.passes
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "running a network in OpenVINO needs openvino: pip install 'slimmable[openvino]'"
            ) from error
        self._openvino: Any = openvino
        self._core: Any = openvino.Core()
        self._options = options or Options()

    def prepare(self, graph: bytes) -> None:
        """Nothing: a graph is read together with its tensors."""

    def tidy(self) -> None:
        """Nothing: no memory is kept."""

    def bind(self, graph: bytes, arrays: Arrays, signature: Signature) -> Callable[[], OpenVinoSession]:
        """What makes sessions from a weight-less graph and tensors by part name; they keep none of the arrays.

        Raises:
            DeploymentError: When a session is made, OpenVINO does not take the graph with these tensors.

        Cost:
            A session, several times what it costs ONNX Runtime: OpenVINO compiles.
        """
        return partial(self._made, graph, arrays, signature)

    def _made(self, graph: bytes, arrays: Arrays, signature: Signature) -> OpenVinoSession:
        # Bit for bit the same on every machine of a kind: some processors would round to bfloat16 unasked. Two sessions
        # on pinned threads would share one core and leave another idle.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": False}
        if self._options.threads:
            settings["INFERENCE_NUM_THREADS"] = self._options.threads
        if names_files(graph):
            raise DeploymentError(
                "the graph names files as places of its tensors; an artifact holds all of them itself"
            )
        try:
            model = self._core.read_model(with_tensors(graph, arrays))
            # What a graph does with tensors alone comes first, as it did when an ordinary file was written.
            folding = self._openvino.passes.Manager()
            folding.register_pass(self._openvino.passes.ConstantFolding())
            folding.run_passes(model)
            compiled = self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise DeploymentError(f"OpenVINO cannot compile the graph: {error}") from error
        return OpenVinoSession(compiled, signature)


class OpenVinoSession:
    """A network of one width in OpenVINO; threads that run it at once have a request each.

    Raises:
        DeploymentError: The graph's inputs or outputs are not those of the signature.
    """

    def __init__(self, compiled: Any, signature: Signature) -> None:
        inputs = {name: port for port in compiled.inputs for name in port.get_names()}
        outputs = {name: index for index, port in enumerate(compiled.outputs) for name in port.get_names()}
        if not set(signature.inputs) <= set(inputs) or not set(signature.outputs) <= set(outputs):
            raise DeploymentError(
                f"the graph has inputs {tuple(inputs)} and outputs {tuple(outputs)}; "
                f"expected {signature.inputs} and {signature.outputs}"
            )
        self._compiled: Any = compiled
        self._inputs = Inputs([_input(name, inputs[name]) for name in signature.inputs])
        self._outputs = tuple(outputs[name] for name in signature.outputs)
        self._idle: list[Any] = []

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs in order, for arrays in order.

        Raises:
            DeploymentError: The inputs do not fit, the session is closed, or OpenVINO fails.
        """
        compiled = self._compiled
        if compiled is None:
            raise DeploymentError("the session is closed; build another one")
        feed = self._inputs.feed(inputs)
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            found = request.infer(feed, share_inputs=True)
            outputs = [found[index] for index in self._outputs]
        except RuntimeError as error:
            raise DeploymentError(f"OpenVINO cannot run the network: {error}") from error
        if self._compiled is not None:
            self._idle.append(request)
        return outputs

    def close(self) -> None:
        """Give back what it holds, once runs that have begun are over."""
        self._compiled = None
        self._idle.clear()


def _input(name: str, port: Any) -> Input:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return Input(name=name, dtype=np.dtype(port.get_element_type().to_dtype()), shape=shape)
