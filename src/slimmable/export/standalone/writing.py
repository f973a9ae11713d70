"""A network of one width as an ordinary file, compared with PyTorch before it appears."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from slimmable.core.twins import twin
from slimmable.errors import ExtractionError, MissingDependencyError
from slimmable.export.flat import flatten
from slimmable.export.standalone.formats import FORMATS, Format, FormatName
from slimmable.export.tracing import resized
from slimmable.record import atomic_path
from slimmable.runtime.base import Signature

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Runs a file that was written."""

Writer = Callable[[nn.Module, tuple[Tensor, ...], Path, Signature], Run]
"""Writes a network that returns tensors, and reads it back."""

TOLERANCE = 1e-4
"""Largest difference from PyTorch's outputs, over the largest of them."""

_WRITERS: dict[FormatName, str] = {
    "onnx": "onnx",
    "openvino": "openvino",
    "executorch": "executorch",
    "torch-export": "torch_export",
    "aot-inductor": "inductor",
    "safetensors": "tensors",
}


def write(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: str | Path,
    *,
    format: FormatName,  # noqa: A002  as users say it
    signature: Signature,
) -> tuple[Path, ...]:
    """Write a network as an ordinary file and check it against PyTorch.

    The file is as large as the network's parameters, not as those of the network that it was cut from. It is read back
    and runs on random inputs, at the example's batch size and at a larger one if it takes any, before it gets its name.

    Args:
        module: A plain network in evaluation mode: ``net.extract(widths, fold_batch_norm=True)``.
        example: What it is called with; the first dimension of each is the batch.
        path: The file; its name ends as the format's do.
        format: One of :data:`FORMATS`.
        signature: Names of inputs and outputs, for the formats that have names.

    Returns:
        The files: the one asked for, and those that lie beside it.

    Raises:
        ExtractionError: The network cannot be written, or what was written computes something else; nothing is left.
        MissingDependencyError: What the format needs is not installed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> layer, names = nn.Linear(4, 2).eval(), Signature(inputs=("x",), outputs=("y",))
        >>> [file.name for file in write(layer, (torch.ones(1, 4),), folder / "net.pt2", format="torch-export",
        ...     signature=names)]
        ['net.pt2']
    """
    path = Path(path)
    known = _known(format)
    if path.suffix != known.suffix:
        raise ExtractionError(f"{path} is no name for {format}; expected one that ends with {known.suffix}")
    if module.training:
        raise ExtractionError("the network is in training mode; call .eval() on it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = flatten(twin(module))
    writer: Writer = import_module(f"slimmable.export.standalone.{_WRITERS[format]}").written
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        run = writer(plain, example, temporary, signature)
        _compare(plain, example, run, format)
        beside = sorted(each for each in Path(folder).iterdir() if each != temporary)
        for each in (*beside, temporary):  # the one that names the others comes last
            with atomic_path(path.with_name(each.name)) as new:
                each.replace(new)
    return (path, *(path.with_name(each.name) for each in beside))


def _known(name: FormatName) -> Format:
    if name not in FORMATS:
        raise ExtractionError(f"there is no format {name!r}; expected one of {', '.join(FORMATS)}")
    known = FORMATS[name]
    if missing := [each for each in known.packages if importlib.util.find_spec(each) is None]:
        raise MissingDependencyError(
            f"writing {name} needs {', '.join(missing)}, not installed here; cure: pip install '{known.install}'",
            name=missing[0],
        )
    return known


def _compare(module: nn.Module, example: tuple[Tensor, ...], run: Run, name: str) -> None:
    batch = example[0].shape[0]
    for at, inputs in enumerate(_drawn(example, (batch, batch + 1))):
        with torch.no_grad():
            expected = module(*(each.clone() for each in inputs))
        try:
            found = run(inputs)
        except Exception as error:
            if at:  # a network that fixes the batch
                return
            raise ExtractionError(f"the {name} file that was written does not run: {error}") from error
        expected = expected if isinstance(expected, tuple) else (expected,)
        if len(found) != len(expected):
            raise ExtractionError(f"the {name} file has {len(found)} outputs, the network {len(expected)}")
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            difference = _difference(one, other)
            if not difference <= TOLERANCE:
                raise ExtractionError(
                    f"the {name} file computes something else than PyTorch: output {place} differs by {difference:.2g} "
                    f"of its largest value, where {TOLERANCE:g} is allowed; please report it with the network"
                )


def _drawn(example: tuple[Tensor, ...], batches: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """Random inputs; whole numbers, which may be places in a table, are the example's own."""
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        yield tuple(
            torch.randn(each.shape, generator=generator, dtype=each.dtype) if each.is_floating_point() else each
            for each in (example if batch == example[0].shape[0] else resized(example, batch))
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; not a number where the shapes or what is not finite differ."""
    if found.shape != expected.shape or not torch.equal(found.isfinite(), expected.isfinite()):
        return float("nan")
    finite = expected.isfinite()
    one, other = found.detach()[finite].double(), expected[finite].double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12)) if one.numel() else 0.0
