"""A network of one width that runs in ExecuTorch."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DeploymentError
from slimmable.runtime.executorch_graph import Program
from slimmable.runtime.tensor_inputs import Entry, arrays_if, tensors_of

ALIVE: WeakSet[ExecuTorchSession] = WeakSet()
"""Sessions that are open."""


class Data:
    """The bytes of a file of weights, written before ExecuTorch is given them.

    Its loader takes ``bytes`` alone, and reads them in place for as long as the module lives. Nobody else ever has
    these, so they are written, and later written again for another width: pages that are there cost nothing.
    """

    def __init__(self, size: int) -> None:
        self.content = bytes(size)
        address = np.frombuffer(self.content, np.uint8).ctypes.data
        self.view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class ExecuTorchSession:
    """A program with the weights of one width; see :class:`slimmable.runtime.base.Session`.

    It runs once when it is made, on zeros: only then does ExecuTorch read its weights.

    Args:
        load: Makes a module of a program's and its weights' bytes.
        program: The graph.
        data: The weights, which the session keeps until it is closed.
        release: Called with ``data`` when it is.

    Raises:
        DeploymentError: ExecuTorch refuses the program.
    """

    def __init__(
        self, load: Callable[[bytes, bytes], Any], program: Program, data: Data, release: Callable[[Data], None]
    ) -> None:
        self._program = program
        self._entries = tuple(Entry(shape, _dtype(name)) for shape, name in program.inputs)
        self._lock = threading.Lock()
        self._release = release
        self._data: Data | None = data
        first = 1 if program.any_batch else program.batch
        try:
            self._module: Any = load(program.code, data.content)
            found = self._outputs([torch.zeros(first, *each.shape[1:], dtype=each.dtype) for each in self._entries])
        except RuntimeError as error:
            raise DeploymentError(
                f"ExecuTorch refuses the program: {str(error).splitlines()[0]}; it has written the reason to the "
                f"standard error. executorch {_version('executorch')} must be one that was built for torch "
                f"{torch.__version__} (executorch 1.3 for torch 2.12), and not older than the one that exported"
            ) from error
        ALIVE.add(self)
        if len(found) != program.outputs:
            raise DeploymentError(f"the program has {len(found)} outputs, its description says {program.outputs}")

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order: tensors if an input is a tensor, else arrays. A batch that is too large runs in parts.

        Raises:
            DeploymentError: Inputs of another number, shape or type than the network takes, or a closed session.
        """
        its = self._program
        given = tensors_of(inputs, self._entries, batch=None if its.any_batch else its.batch, last=False)
        pieces = [given] if len(given[0]) <= its.batch else zip(*(each.split(its.batch) for each in given), strict=True)
        with self._lock:
            if self._data is None:
                raise DeploymentError("the session is closed; build another one")
            try:
                parts = [self._outputs(list(part)) for part in pieces]
            except RuntimeError as error:
                raise DeploymentError(
                    f"ExecuTorch fails on these inputs: {str(error).splitlines()[0]}; it has written the reason to the "
                    "standard error"
                ) from error
        found: list[Tensor] = parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]
        return arrays_if(found, like=inputs)

    def _outputs(self, inputs: list[Tensor]) -> list[Tensor]:
        return [each for each in self._module.forward(inputs) if isinstance(each, Tensor)]

    def close(self) -> None:
        """Let go of the module, then of its weights."""
        with self._lock:
            data, self._data, self._module = self._data, None, None
        ALIVE.discard(self)
        if data is not None:
            self._release(data)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise DeploymentError(f"the graph has an input of type {name!r}, which torch {torch.__version__} has not")
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown)"
