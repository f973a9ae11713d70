"""ExecuTorch as a backend: a program without weights, and their file made in memory when the width changes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from slimmable.errors import ArtifactError, DeploymentError, MissingDependencyError
from slimmable.runtime.base import Arrays, Layout, Options, Session, Signature
from slimmable.runtime.executorch_graph import unpacked

if TYPE_CHECKING:
    from slimmable.runtime.executorch_session import Data

_GRAPHS = 32
"""Programs of so many widths are kept as they were read."""


class ExecuTorchBackend:
    """Runs networks in ExecuTorch with XNNPACK, on the CPU, by its Python bindings.

    Those need PyTorch, of the version that they were built for. On a device without Python the same programs run in
    ExecuTorch's C++ runtime: :mod:`slimmable.runtime.executorch_graph` says how a ``.pte`` and a ``.ptd`` are made of
    a graph and tensors.

    Its threads are one pool for the whole process. Backends that are used at a time have the same number of threads,
    and modules that were loaded by other means before the first backend may crash: the pool was another one then.
    ExecuTorch writes what goes wrong to the standard error, beside the error that is raised here.

    Args:
        options: How sessions run.

    Raises:
        MissingDependencyError: ExecuTorch or PyTorch is not installed.
        DeploymentError: Sessions of another number of threads are open.

    Attributes:
        name: ``executorch``.
        layout: The memory order that most weights have in the file.
        keeps_arrays: False: they are copied into the file.
    """

    name = "executorch"
    layout = Layout(order="channels_last")
    keeps_arrays = False

    def __init__(self, options: Options) -> None:
        its = bindings()
        from slimmable.runtime import executorch_session as session

        self._load = its._load_for_executorch_from_buffer
        self._session = session
        self._read = lru_cache(maxsize=_GRAPHS)(unpacked)
        self._spare: Data | None = None
        found = its._threadpool_get_thread_count()
        if options.threads and found != options.threads:
            if session.ALIVE:
                raise DeploymentError(
                    f"ExecuTorch has one pool of threads for the process, now {found}, and {len(session.ALIVE)} "
                    f"sessions use it; expected threads={found}, or 0 for the pool as it is, not {options.threads}; "
                    "or close what runs first"
                )
            its._unsafe_reset_threadpool(options.threads)

    def prepare(self, graph: bytes) -> None:
        """Read a graph ahead, so that the first session of it is made as fast as the next.

        Raises:
            ArtifactError: The graph is damaged.
        """
        self._read(graph)

    def bind(self, graph: bytes, arrays: Arrays, signature: Signature) -> Callable[[], Session]:
        """What makes sessions; one that is made has copied the arrays, and has run once.

        Raises:
            ArtifactError: The graph is damaged, or does not fit the arrays or the signature.
            DeploymentError: When a session is made, ExecuTorch refuses the program.
        """
        program = self._read(graph)
        found, expected = (len(program.inputs), program.outputs), (len(signature.inputs), len(signature.outputs))
        if found != expected:
            raise ArtifactError(
                f"the graph has {found[0]} inputs and {found[1]} outputs, the artifact says {expected[0]} and "
                f"{expected[1]}; export the network again"
            )
        return partial(self._made, program, arrays)

    def _made(self, program: Any, arrays: Arrays) -> Session:
        data, self._spare = self._spare, None
        if data is None or len(data.content) < program.size:
            data = self._session.Data(program.size)
        program.fill(data.view, arrays)
        return self._session.ExecuTorchSession(self._load, program, data, self._keep)

    def tidy(self) -> None:
        """Give the memory that a closed session has left for the next one back to the system."""
        self._spare = None

    def _keep(self, data: Data) -> None:
        self._spare = data


def bindings() -> Any:
    """ExecuTorch's bindings to Python.

    Their import warns that they are experimental, and notes in the environment where OpenVINO is: neither stays.

    Raises:
        MissingDependencyError: ExecuTorch or PyTorch is not installed.
    """
    before = os.environ.get("OPENVINO_LIB_PATH")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from executorch.extension.pybindings import portable_lib
    except ImportError as error:
        raise MissingDependencyError(
            f"the executorch runtime needs ExecuTorch and PyTorch ({error}); cure: pip install "
            "'slimmable[executorch]', and the executorch that was built for your torch",
            name="executorch",
        ) from error
    finally:
        if before is None:
            os.environ.pop("OPENVINO_LIB_PATH", None)
    return portable_lib
