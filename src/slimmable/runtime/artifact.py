"""Reading ``model.slim``: everything in the file is checked before any of it is used.

The file is in safetensors format, so that any of its readers opens it; here it is mapped into memory, and a width's
tensors are cut from the mapping. Nothing in it is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import sys
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from slimmable.core.space import Widths
from slimmable.errors import ArtifactError
from slimmable.runtime.base import Layout
from slimmable.runtime.manifest import FORMAT, Graphs, Manifest, Part, StoredWidths, Tensor
from slimmable.runtime.parts import Cut, Frame, cut, part_shape, rows, table_size, vectors
from slimmable.runtime.quantised import QuantisedLayer, layer_tensors
from slimmable.runtime.switchable import only_batch

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I32": np.int32, "I64": np.int64}
DTYPES |= {"U8": np.uint8, "BOOL": np.bool_}
_GRAPH_LIMIT = 1 << 28
"""Bytes of one graph, which holds no weights; those of the largest networks take a hundredth."""


class Artifact:
    """One network at several widths, in one file of about one network's size.

    Args:
        path: The file.

    Raises:
        ArtifactError: It is missing, damaged, of another kind, or from a newer version.

    Attributes:
        path: The file.
        manifest: What it says of itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        metadata, self._tensors, self._mapping = _mapped(self.path)
        self._first: dict[str, bytes] = {}
        self._cuts: dict[tuple[str, int], Cut] = {}
        text = metadata.get("manifest", "")
        if metadata.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} has format {metadata.get('format')!r}; expected {FORMAT!r}, as slimmable export writes it"
            )
        if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
            raise ArtifactError(f"{path} is damaged: its description does not have its checksum; copy the file again")
        self.manifest = Manifest.from_text(text)
        self.digest: str = metadata["sha256"]
        _check(self.path, self.manifest, self._tensors)
        self.release()

    @property
    def name(self) -> str:
        """Of the network."""
        return self.manifest.name

    @property
    def widths(self) -> tuple[StoredWidths, ...]:
        """Widths that it holds, the cheapest first."""
        return self.manifest.widths

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the network takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it returns."""
        return self.manifest.outputs

    @property
    def batch(self) -> int | None:
        """The only batch that it runs at, if there is one."""
        return only_batch(self.inputs)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, if it classifies."""
        return self.manifest.labels

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How an image becomes an input."""
        return self.manifest.preprocessing

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends that it has graphs for."""
        return tuple(self.manifest.graphs)

    def index(self, width: int | str | float | Widths) -> int:
        """The place of a stored width, given by it, by its name (a ratio is one), or by its channels.

        Raises:
            ArtifactError: It is not stored; the message lists those that are.
        """
        if isinstance(width, Widths):
            found = [at for at, each in enumerate(self.widths) if each.widths == width]
        elif isinstance(width, int) and not isinstance(width, bool):
            found = [width] if 0 <= width < len(self.widths) else []
        else:
            found = [at for at, each in enumerate(self.widths) if each.name == str(width)]
        if not found:
            known = ", ".join(f"{at} ({each.name})" for at, each in enumerate(self.widths))
            raise ArtifactError(f"{self.path} does not hold the width {width!r}; it holds {known}")
        return found[0]

    def graph(self, backend: str, index: int) -> bytes:
        """The weight-less graph of a width.

        Raises:
            ArtifactError: There is none for this backend, or it is damaged.
        """
        self._graphs_of(backend)
        packed = self._tensors[f"graph/{backend}/{index}"].tobytes()
        if index == 0:
            return inflated(packed)
        if backend not in self._first:
            self._first[backend] = self.graph(backend, 0)
        return inflated(packed, self._first[backend])  # graphs of a backend differ little

    def arrays(
        self, backend: str, index: int, *, layout: Layout | None = None, buffer: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Tensors that the graph of a width takes, by name; what stands in the file as it is wanted is not copied.

        Args:
            backend: Whose graph.
            index: Which width.
            layout: How the tensors are wanted; contiguous if None.
            buffer: Bytes to write into, at least :meth:`nbytes` of them; new ones if None.
        """
        made = self.frame(backend, index, layout=layout, buffer=buffer)
        made.write()
        found = made.arrays
        graphs = self._graphs_of(backend)
        if graphs.layers:
            found = self._integers(found, graphs.layers[index], index)
        return found

    def frame(
        self, backend: str, index: int, *, layout: Layout | None = None, buffer: np.ndarray | None = None
    ) -> Frame:
        """Places of a width's tensors, and what writes them there, any number of times; see :meth:`arrays`.

        Weights in eight bits are written as they stand in the file: their scales are not in the places.
        """
        made = self._cut(backend, index)
        found = made.frame(np.empty(made.nbytes, np.uint8) if buffer is None else buffer, layout or Layout())
        for name in self._graphs_of(backend).extra[index]:
            found.arrays[name] = np.array(self._tensors[f"extra/{backend}/{index}/{name}"])
        return found

    def in_integers(self, backend: str) -> bool:
        """Whether a backend's graphs take weights in eight bits."""
        return bool(self._graphs_of(backend).layers)

    def nbytes(self, backend: str, index: int) -> int:
        """Bytes of the tensors that the graph of a width takes."""
        return self._cut(backend, index).nbytes

    def release(self) -> None:
        """Let the system take back the memory of what was read; it is read again from the file when needed."""
        if sys.platform == "linux":
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _graphs_of(self, backend: str) -> Graphs:
        if backend not in self.manifest.graphs:
            raise ArtifactError(
                f"{self.path} has no graphs for {backend}, only for {', '.join(self.backends)}; "
                f"write it with --runtime {backend} among others"
            )
        return self.manifest.graphs[backend]

    def _integers(
        self, found: dict[str, np.ndarray], layers: Sequence[QuantisedLayer], index: int
    ) -> dict[str, np.ndarray]:
        """Tensors of a width whose weights are integers."""
        parts = {part.name: part for part in self.manifest.parts}
        channels = self.widths[index].widths.channels
        packed = vectors(self.manifest.parts, self._tensors[f"table/{index}"], channels)
        for layer in layers:
            part = parts[layer.weight]
            weight, bias = found.pop(layer.weight), None if layer.bias is None else found.pop(layer.bias)
            scales = rows(part, self._tensors[f"scale/{part.source}"], channels, self._maximum)
            try:
                found |= layer_tensors(layer, weight, scales, scale=packed.get(layer.weight), bias=bias)
            except ValueError as error:
                raise ArtifactError(f"{self.path} is damaged: {layer.weight} and {layer.bias} do not fit") from error
        return found

    def _cut(self, backend: str, index: int) -> Cut:
        graphs = self._graphs_of(backend)
        known = self._cuts.get((backend, index))
        if known is None:
            known = self._cuts[backend, index] = cut(
                self.manifest.parts,
                wanted=_wanted(graphs, index),
                sources=self._sources,
                table=self._tensors[f"table/{index}"],
                channels=self.widths[index].widths.channels,
                maximum=self._maximum,
            )
        return known

    @cached_property
    def _sources(self) -> dict[str, np.ndarray]:
        return {name[7:]: tensor for name, tensor in self._tensors.items() if name.startswith("weight/")}

    @cached_property
    def _maximum(self) -> tuple[int, ...]:
        return self.manifest.space.largest.channels


def _wanted(graphs: Graphs, index: int) -> set[str]:
    """Parts that the graph of a width is made of."""
    layers = graphs.layers[index] if graphs.layers else ()
    own = {name for layer in layers for name in (layer.weight, layer.bias) if name is not None}
    return {*graphs.parts[index], *own}


def deflated(content: bytes, known: bytes = b"") -> bytes:
    """A graph as it stands in the file; ``known`` is one that it resembles.

    >>> inflated(deflated(b"a graph", b"graph"), b"graph")
    b'a graph'
    """
    packing = zlib.compressobj(9, zdict=known[-(1 << 15) :]) if known else zlib.compressobj(9)
    return packing.compress(content) + packing.flush()


def inflated(packed: bytes, known: bytes = b"") -> bytes:
    """The inverse of :func:`deflated`.

    Raises:
        ArtifactError: It is damaged.
    """
    try:
        unpacking = zlib.decompressobj(zdict=known[-(1 << 15) :]) if known else zlib.decompressobj()
        content = unpacking.decompress(packed, _GRAPH_LIMIT)
    except zlib.error as error:
        raise ArtifactError(f"a graph of the artifact is damaged: {error}; copy the file again") from error
    if not unpacking.eof:
        raise ArtifactError("a graph of the artifact ends too early, or is larger than any network's")
    return content


def _mapped(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray], mmap.mmap]:
    """Metadata and tensors of a file, and the mapping in which these lie."""
    try:
        with safe_open(path, framework="np") as file:  # checks that the header fits the file
            metadata = file.metadata() or {}
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(mapping, np.uint8)
        tensors: dict[str, np.ndarray] = {}
        for name, each in header.items():
            if name != "__metadata__":
                start, end = each["data_offsets"]
                raw = content[8 + length + start : 8 + length + end]
                tensors[name] = raw.view(DTYPES[each["dtype"]]).reshape(each["shape"])
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read as an artifact: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error!r}; copy the file again") from error
    return metadata, tensors, mapping


def _check(path: Path, manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> None:
    """Pass if a file holds what its manifest says, and nothing else.

    Raises:
        ArtifactError: It does not.
    """
    expected: set[str] = {f"table/{at}" for at in range(len(manifest.widths))}
    expected |= {f"weight/{part.source}" for part in manifest.parts if part.source is not None}
    sources = {part.name: part.source for part in manifest.parts}
    for backend, graphs in manifest.graphs.items():
        expected |= {f"scale/{sources[layer.weight]}" for layers in graphs.layers for layer in layers}
        for at, names in enumerate(graphs.extra):
            expected |= {f"graph/{backend}/{at}", *(f"extra/{backend}/{at}/{name}" for name in names)}
    for name in sorted({*expected, *tensors, *manifest.checksums}):
        if name not in tensors or name not in expected or name not in manifest.checksums:
            raise ArtifactError(f"{path} is damaged: tensor {name!r} is missing or unknown; copy the file again")
        if hashlib.sha256(tensors[name].data).hexdigest() != manifest.checksums[name]:
            raise ArtifactError(f"{path} is damaged: tensor {name!r} does not have its checksum; copy the file again")
    maximum = manifest.space.largest.channels
    for part in manifest.parts:
        problem = None if part.source is None else _misfit(part, tensors[f"weight/{part.source}"], maximum)
        if problem:
            raise ArtifactError(f"{path} is damaged: {part.name} {problem}; copy the file again")
    for graphs in manifest.graphs.values():
        _check_integers(path, manifest, graphs, tensors)
    for at, each in enumerate(manifest.widths):
        table, size = tensors[f"table/{at}"], table_size(manifest.parts, each.widths.channels)
        if table.shape != (size,) or table.dtype not in (np.float32, np.float16):
            raise ArtifactError(
                f"{path} is damaged: the table of width {each.name} holds {table.shape} numbers, expected {size}"
            )


def _check_integers(path: Path, manifest: Manifest, graphs: Graphs, tensors: Mapping[str, np.ndarray]) -> None:
    """Pass if all that is in eight bits, and only that, is taken as such, with a scale for each output channel."""
    parts = {part.name: part for part in manifest.parts}
    for at in range(len(manifest.widths)):
        layers = graphs.layers[at] if graphs.layers else ()
        integers = {layer.weight for layer in layers}
        for name in _wanted(graphs, at):
            source = parts[name].source
            stored = source is not None and tensors[f"weight/{source}"].dtype == np.int8
            if stored != (name in integers) or (stored and name in graphs.parts[at]):
                raise ArtifactError(f"{path} is damaged: {name} is taken in another precision than it is stored in")
        for name in integers:
            source = parts[name].source
            scale = tensors[f"scale/{source}"]
            if scale.dtype != np.float32 or scale.shape != tensors[f"weight/{source}"].shape[:1]:
                raise ArtifactError(f"{path} is damaged: {name} has not one scale for each output channel")


def _misfit(part: Part, source: np.ndarray, maximum: Sequence[int]) -> str | None:
    if part.shape != source.shape:
        return f"has shape {part.shape}, its tensor {source.shape}"
    if part_shape(part, maximum) != source.shape:
        return f"has widths that do not make up the shape {source.shape}"
    return None
