"""A network of one width that runs from its graph's steps, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import ArtifactError, DeploymentError
from slimmable.runtime.base import Arrays, Work
from slimmable.runtime.tensor_inputs import Entries, all_arrays
from slimmable.runtime.tensor_program import Program, Stored


def products(values: np.ndarray, scale: np.ndarray, out: np.ndarray) -> Work:
    """What writes products into an array: two or three times as fast as NumPy where rows are short.

    >>> out = np.empty((1, 2), np.float32)
    >>> _ = products(np.ones((1, 2), np.float32), np.full((1, 1), 2, np.float32), out)()
    >>> out.tolist()
    [[2.0, 2.0]]
    """
    return partial(torch.mul, torch.from_numpy(values), torch.from_numpy(scale), out=torch.from_numpy(out))


class TensorSession:
    """A program with the tensors of one width; see :class:`slimmable.runtime.base.Session`.

    Args:
        program: The graph's steps.
        values: What :func:`values_of` made of the tensors, which the session reads where they are.
        threads: Threads of a run; 0 for as many as PyTorch uses in the calling thread.
    """

    def __init__(self, program: Program, values: list[Any], *, threads: int) -> None:
        self._program = program
        self._entries = Entries(program.inputs, batch=None if program.any_batch else program.batch, last=True)
        self._threads = threads
        self._values: list[Any] | None = values

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order: tensors if an input is a tensor, else arrays.

        Raises:
            DeploymentError: Inputs of another number, shape or type than the network takes, or a closed session.
        """
        before = torch.get_num_threads()
        if self._threads in (0, before):
            return self._run(inputs)
        torch.set_num_threads(self._threads)
        try:
            return self._run(inputs)
        finally:
            torch.set_num_threads(before)

    def _run(self, inputs: Sequence[Any]) -> list[Any]:
        program, values = self._program, self._values
        if values is None:
            raise DeploymentError("the session is closed; build another one")
        values = values.copy()
        with torch.inference_mode():
            given = self._entries.tensors(inputs)
            for at, tensor in enumerate(given):
                values[at] = tensor
            for sized in program.sized:
                values[sized.place] = sized.at(given[0].shape[0])
            del given
            try:
                for function, arguments, output, done in program.steps:
                    values[output] = function(*arguments(values))
                    for place in done:
                        values[place] = None
                found = [values[at].clone() if shared else values[at] for at, shared in program.outputs]
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DeploymentError(
                    f"the network fails on these inputs: {error}; give inputs as those it was exported with"
                ) from error
        return [each.numpy() for each in found] if all_arrays(inputs) else found

    def close(self) -> None:
        """Let go of the arrays."""
        self._values = None


def values_of(program: Program, arrays: Arrays) -> list[Any]:
    """All values of a program before a run; tensors are the arrays themselves where they lie as operators want them.

    Raises:
        ArtifactError: Tensors are missing, or of other shapes or types than the graph says.
    """
    values = list(program.values)
    for each in program.tensors:
        values[each.place] = _wrapped(each, arrays)
    return values


def _wrapped(its: Stored, arrays: Arrays) -> Tensor:
    """An array as a tensor in the order that the graph's operators are fastest in; copied only if it lies otherwise."""
    found = arrays.get(its.name)
    if found is None:
        raise ArtifactError(f"the graph reads the tensor {its.name!r}, which was not given; export the network again")
    if found.shape != its.shape or found.dtype != its.dtype:
        raise ArtifactError(
            f"the tensor {its.name!r} is {found.dtype} of shape {found.shape}, the graph says {its.dtype} of "
            f"{its.shape}; export the network again"
        )
    tensor = torch.from_numpy(found)
    if found.strides == its.strides or (its.strided and found.strides[1] == its.dtype.itemsize):
        return tensor
    steps = [stride // its.dtype.itemsize for stride in its.strides]
    if its.plain and found.flags.c_contiguous:  # the same place in memory for every number, said otherwise
        return tensor.as_strided(its.shape, steps)
    return torch.empty_strided(its.shape, steps, dtype=tensor.dtype).copy_(tensor)
