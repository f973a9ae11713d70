"""PyTorch as a backend: the operators of a weight-less graph one after another, in ``channels_last``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from slimmable.errors import ArtifactError, MissingDependencyError
from slimmable.runtime.base import Arrays, Layout, Options, Session, Signature

_GRAPHS = 128
"""Graphs of so many widths are kept as they were read."""


class TorchBackend:
    """Runs networks in PyTorch, on the CPU.

    A graph is read once, into a list of calls; a session is that list and the tensors of its width, which are the
    given arrays themselves. An array of four axes, ``(O, I, H, W)``, is wanted in ``channels_last``: the
    transposed view of one of shape ``(O, H, W, I)``. One that lies otherwise is copied, at a cost.

    Args:
        options: How sessions run.

    Raises:
        MissingDependencyError: PyTorch is not installed.

    Attributes:
        name: ``torch``.
        layout: What needs no copy: products take matrices with their rows apart, too.
        keeps_arrays: True: they are the session's tensors.
    """

    name = "torch"
    keeps_arrays = True

    def __init__(self, options: Options) -> None:
        try:
            import torch

            from slimmable.runtime.tensor_program import read
            from slimmable.runtime.tensor_session import products
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "the torch runtime needs PyTorch, which is not installed here; cure: pip install 'slimmable[torch]'",
                name="torch",
            ) from error
        self.layout = Layout(order="channels_last", strided=True, products=products)
        self._options = options
        self._read = lru_cache(maxsize=_GRAPHS)(read)
        frozen = np.zeros(1)
        frozen.flags.writeable = False
        with warnings.catch_warnings():  # said once in a process; no graph writes into its tensors
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            torch.from_numpy(frozen)

    def prepare(self, graph: bytes) -> None:
        """Read a graph ahead, so that the first session of it is made as fast as the next.

        Raises:
            ArtifactError: The graph is damaged.
        """
        self._read(graph)

    def tidy(self) -> None:
        """Nothing: sessions hold no memory of their own."""

    def bind(self, graph: bytes, arrays: Arrays, signature: Signature) -> Callable[[], Session]:
        """What makes sessions; they read the arrays where they are until they are closed.

        Raises:
            ArtifactError: The graph is damaged, or does not fit the arrays or the signature.
        """
        from slimmable.runtime.tensor_session import TensorSession, values_of

        program = self._read(graph)
        found, expected = (len(program.inputs), len(program.outputs)), (len(signature.inputs), len(signature.outputs))
        if found != expected:
            raise ArtifactError(
                f"the graph has {found[0]} inputs and {found[1]} outputs, the artifact says {expected[0]} and "
                f"{expected[1]}; export the network again"
            )
        return partial(TensorSession, program, values_of(program, arrays), threads=self._options.threads)
