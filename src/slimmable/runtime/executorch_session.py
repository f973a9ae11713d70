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
from slimmable.runtime.tensor_inputs import Entries, Entry, all_arrays

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
        entries = tuple(Entry(shape, _dtype(name)) for shape, name in program.inputs)
        only = None if program.any_batch else program.batch
        self._entries, self._most = Entries(entries, batch=only, last=False, most=program.batch), program.batch
        self._lock = threading.Lock()
        self._release = release
        self._data: Data | None = data
        first = only or 1
        try:
            self._module: Any = load(program.code, data.content)
            found = self._module.forward([torch.zeros(first, *each.each, dtype=each.dtype) for each in entries])
        except RuntimeError as error:
            raise DeploymentError(
                f"ExecuTorch refuses the program: {str(error).splitlines()[0]}; it has written the reason to the "
                f"standard error. executorch {_version('executorch')} must be one that was built for torch "
                f"{torch.__version__} (executorch 1.3 for torch 2.12), and not older than the one that exported"
            ) from error
        ALIVE.add(self)
        count = len(_tensors(found))
        if count != program.outputs:
            raise DeploymentError(f"the program has {count} outputs, its description says {program.outputs}")

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order: tensors if an input is a tensor, else arrays. A batch that is too large runs in parts.

        Raises:
            DeploymentError: Inputs of another number, shape or type than the network takes, or a closed session.
        """
        plain = self._entries.known(inputs)
        given = [*map(torch.from_numpy, inputs)] if plain else self._entries.tensors(inputs)
        with self._lock:
            module = self._module
            if module is None:
                raise DeploymentError("the session is closed; build another one")
            try:
                if plain:  # few lines, of which each costs a microsecond behind a run that went through the whole cache
                    found = module.forward(given, False)  # in memory that the next run writes: copied here
                    return [each.numpy().copy() for each in found if type(each) is Tensor]
                return self._looked_at(given, arrays=all_arrays(inputs))
            except RuntimeError as error:
                raise DeploymentError(
                    f"ExecuTorch fails on these inputs: {str(error).splitlines()[0]}; it has written the reason to the "
                    "standard error"
                ) from error

    def _looked_at(self, given: list[Tensor], *, arrays: bool) -> list[Any]:
        pieces = zip(*(each.split(self._most) for each in given), strict=True)
        parts = [_tensors(self._module.forward(list(piece))) for piece in pieces]
        whole = parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]
        return [each.numpy() for each in whole] if arrays else whole

    def close(self) -> None:
        """Let go of the module, then of its weights."""
        with self._lock:
            data, self._data, self._module = self._data, None, None
        ALIVE.discard(self)
        if data is not None:
            self._release(data)


def _tensors(found: Sequence[Any]) -> list[Tensor]:
    return [each for each in found if type(each) is Tensor]


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
