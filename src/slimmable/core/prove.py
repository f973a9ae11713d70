"""The proof of a conversion: full width is the original bit for bit, narrow widths are what was foreseen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.core.analysis import Analysis
from slimmable.core.groups import Grouping
from slimmable.core.space import Widths
from slimmable.core.trace import trace
from slimmable.errors import ConversionError, SlimmableError


class NarrowFailure(SlimmableError):
    """A module does at a narrow width what the analysis did not foresee."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"{module or 'the network'}: {reason}")
        self.module = module
        self.reason = reason


def run_narrow(plain: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    """The output of an extracted sub-network.

    Raises:
        NarrowFailure: It raises an error; the failure names the innermost module that was running.
    """
    with _running(plain) as paths, torch.no_grad():
        try:
            return plain(*example_inputs)
        except Exception as error:
            first = str(error).strip().splitlines()[0][:160] if str(error) else repr(error)
            raise NarrowFailure(paths[-1] if paths else "", f"its code fixes a size ({first})") from error


def compare_shapes(
    plain: nn.Module, example_inputs: tuple[Any, ...], analysis: Analysis, grouping: Grouping, widths: Widths
) -> None:
    """Trace an extracted sub-network and compare the shape of every operator with the one foreseen.

    Raises:
        NarrowFailure: An operator differs; the failure names its module.
    """
    found = trace(plain, example_inputs).calls
    expected = analysis.trace.calls
    for before, now in zip(expected, found, strict=False):
        if before.name != now.name:
            raise NarrowFailure(
                before.module, f"its code takes another way at a narrow width ({now.name} for {before.name})"
            )
        foreseen = [
            tuple(grouping.axis(layout).size(widths.channels) for layout in axes)
            for axes in analysis.tensors[before.node]
        ]
        if now.outputs != foreseen:
            raise NarrowFailure(
                before.module, f"its code fixes a size ({before.name} yields {now.outputs}, foreseen were {foreseen})"
            )
    if len(expected) != len(found):
        raise NarrowFailure("", f"it runs {len(found)} operators at a narrow width, {len(expected)} at full width")


def require_equal(one: Any, other: Any, what: str) -> None:
    """Pass if two outputs are the same, bit for bit.

    Raises:
        ConversionError: They differ.
    """
    ours, theirs = list(tensors(one)), list(tensors(other))
    same = len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(ours, theirs, strict=True)
    )
    if not same:
        raise ConversionError(
            f"{what}: the outputs differ; this is a defect of slimmable, please report it with the network"
        )


def require_close(one: Any, other: Any, what: str) -> None:
    """Pass if two outputs are the same but for rounding.

    Operators on the weights themselves may round strided tensors otherwise than contiguous ones.

    Raises:
        ConversionError: They differ.
    """
    for ours, theirs in zip(tensors(one), tensors(other), strict=True):
        if not torch.allclose(
            ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) if theirs.numel() else 0.0, equal_nan=True
        ):
            raise ConversionError(
                f"{what}: the outputs differ; this is a defect of slimmable, please report it with the network"
            )


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a nested output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


@contextmanager
def _running(model: nn.Module) -> Iterator[list[str]]:
    """Paths of the modules that are running, innermost last; after an error the list stays as it was then."""
    paths: list[str] = []

    def enter(path: str) -> Any:
        return lambda *_: paths.append(path)

    def leave(*_: Any) -> None:
        paths.pop()

    handles = []
    for path, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave)]
    try:
        yield paths
    finally:
        for handle in handles:
            handle.remove()


def module_classes(model: nn.Module, path: str) -> list[str]:
    """Paths of all modules of the class of the one at ``path``."""
    path = re.sub(r"@\d+$", "", path)
    cls = type(model.get_submodule(path))
    return [other for other, module in model.named_modules() if type(module) is cls]
