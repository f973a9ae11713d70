"""The proof of a conversion: full width is the original bit for bit, narrow widths are what was foreseen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimmable.core.foreseen import Foreseen
from slimmable.core.space import Widths
from slimmable.core.steps import Reference, Watch, agree
from slimmable.core.trace import Call, shapes_of, tensors, trace
from slimmable.core.twins import copied
from slimmable.errors import ConversionError, SlimmableError

if TYPE_CHECKING:
    from slimmable.core.model import SlimmableModel


class NarrowFailure(SlimmableError):
    """A module does at a narrow width, in evaluation or ``training``, what the analysis did not foresee."""

    def __init__(self, module: str, reason: str, *, training: bool = False) -> None:
        super().__init__(f"{module or 'the network'}: {reason}")
        self.module = module
        self.reason = reason
        self.training = training


def run(model: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    """Outputs without gradients. What the network draws at random is the same every time, and no draw of others'."""
    devices = {tensor.device for tensor in tensors(example_inputs) if tensor.is_cuda}
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(0)
        return model(*example_inputs)


def run_noting(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[Any, list[str]]:
    """Outputs, as of :func:`run`, and names of the buffers that ``model`` writes meanwhile; it is left as it was."""
    used = copied(model, {id(each): each for each in model.parameters()})
    before = {name: (buffer, _writes(buffer)) for name, buffer in used.named_buffers()}
    outputs = run(used, example_inputs)
    now = dict(used.named_buffers())
    return outputs, [
        name for name, (buffer, writes) in before.items() if now.get(name) is not buffer or _writes(buffer) != writes
    ]


def _writes(tensor: Tensor) -> int:
    """How often a tensor was changed in place; those of inference mode do not know."""
    return 0 if tensor.is_inference() else tensor._version


def run_switched(net: SlimmableModel, example_inputs: tuple[Any, ...], widths: Widths) -> Any:
    """The output at a width of a network that has run at another one before.

    Raises:
        NarrowFailure: A module stumbles over something that it keeps from before.
    """
    with net.at(widths), _running(net.model) as paths:
        try:
            return run(net, example_inputs)
        except Exception as error:
            reason = f"it keeps what it computed at another width ({_first_line(error)})"
            raise NarrowFailure(paths[-1] if paths else "", reason) from error


def rehearse(
    plain: nn.Module, example_inputs: tuple[Any, ...], foreseen: Foreseen, expected: Reference | None, *, hollow: bool
) -> bool | None:
    """Run an extracted sub-network, with or without data, and watch its operators.

    Returns:
        None where it does not run so, or meets an input of another shape than foreseen: an ordinary run has to tell.
        Else whether every operator was seen to yield what was foreseen.
    """
    try:
        with torch.device("meta") if hollow else nullcontext(), Watch() as watch:
            run_narrow(plain, example_inputs, foreseen)
    except NarrowFailure:
        return None
    return expected is not None and agree(expected, foreseen, watch.steps)


def run_narrow(plain: nn.Module, example_inputs: tuple[Any, ...], foreseen: Foreseen) -> Any:
    """The output of an extracted sub-network.

    Raises:
        NarrowFailure: A module meets an input of another shape than foreseen (the failure names the module that made
            it), or raises an error (it names the innermost module that was running).
    """
    expected = foreseen.inputs()

    def check(path: str, args: tuple[Any, ...]) -> None:
        shapes = [tuple(value.shape) for value in args if isinstance(value, Tensor)]
        if path in expected and shapes:
            maker, shape = expected[path]
            if shape not in shapes:
                found = f"{maker.name} yields {shapes[0]}, foreseen was {shape}"
                raise NarrowFailure(maker.module, f"its code fixes a size ({found})")

    with _running(plain, check) as paths:
        try:
            return run(plain, example_inputs)
        except NarrowFailure:
            raise
        except Exception as error:
            raise NarrowFailure(paths[-1] if paths else "", f"its code fixes a size ({_first_line(error)})") from error


def run_training(plain: nn.Module, example_inputs: tuple[Any, ...]) -> None:
    """Run an extracted sub-network, which is put into training mode, once.

    Raises:
        NarrowFailure: It raises an error.
    """
    with _running(plain.train()) as paths:
        try:
            run(plain, example_inputs)
        except Exception as error:
            reason = f"in training its code fixes a size ({_first_line(error)})"
            raise NarrowFailure(paths[-1] if paths else "", reason, training=True) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)


def compare_shapes(plain: nn.Module, example_inputs: tuple[Any, ...], foreseen: Foreseen) -> None:
    """Trace an extracted sub-network and compare the shape of every operator with the one foreseen.

    Raises:
        NarrowFailure: An operator differs; the failure names its module.
    """
    found = _without_copies(trace(plain, example_inputs).calls)
    expected = _without_copies(foreseen.calls)
    if other := _another_way(expected, found):
        raise NarrowFailure(other, "its code takes another way when narrow")
    for before, now in zip(expected, found, strict=True):
        if now.outputs != foreseen.shapes(before.node):
            difference = f"{before.name} yields {now.outputs}, foreseen were {foreseen.shapes(before.node)}"
            raise NarrowFailure(before.module, f"its code fixes a size ({difference})")
        for name, value in foreseen.arguments(before.node).items():
            given, length = now.values[name] or 0, shapes_of(now.values["self"])[0][now.values["dim"]]
            if given % length != value % length:
                difference = f"{now.name} has {name}={given}, foreseen was {value}"
                raise NarrowFailure(before.module, f"its code fixes a size ({difference})")


def _without_copies(calls: Sequence[Call]) -> list[Call]:
    """Calls but for those that tracing leaves out where a tensor happens to be contiguous."""
    return [call for call in calls if call.name not in ("aten.contiguous.default", "aten.clone.default")]


def _another_way(expected: Sequence[Call], found: Sequence[Call]) -> str | None:
    """The first module that does not call the operators it should."""
    if [call.name for call in expected] == [call.name for call in found]:
        return None
    calls: dict[str, tuple[list[str], list[str]]] = {}
    for side, each in enumerate((expected, found)):
        for call in each:
            calls.setdefault(call.module, ([], []))[side].append(call.name)
    return next((module for module, (ours, theirs) in calls.items() if ours != theirs), "")


def require_equal(one: Any, other: Any, what: str, cause: str) -> None:
    """Pass if two outputs are the same, bit for bit.

    Args:
        one: An output.
        other: Another.
        what: Whose they are.
        cause: What explains a difference, and how to cure it.

    Raises:
        ConversionError: They differ.
    """
    ours, theirs = list(tensors(one)), list(tensors(other))
    same = len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(ours, theirs, strict=True)
    )
    if not same:
        raise ConversionError(f"{what}: the outputs differ; {cause}")


def require_close(one: Any, other: Any, what: str, cause: str) -> None:
    """Pass if two outputs are the same but for rounding.

    Operators on the weights themselves may round strided tensors otherwise than contiguous ones.

    Args:
        one: An output.
        other: Another.
        what: Whose they are.
        cause: What explains a difference, and how to cure it.

    Raises:
        ConversionError: They differ.
    """
    for ours, theirs in zip(tensors(one), tensors(other), strict=True):
        if not _close(ours, theirs):
            raise ConversionError(f"{what}: the outputs differ; {cause}")


_FLIPS = 0.01
"""Share of truth values and whole numbers in an output that rounding may change."""


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if theirs.is_floating_point() or theirs.is_complex():
        scale = theirs.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if theirs.numel() else 0.0
        return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
    return not theirs.numel() or (ours != theirs).double().mean().item() <= _FLIPS


def cause_of(buffers: Sequence[str]) -> str:
    """What explains that outputs differ, and how to cure it, for a network that writes ``buffers`` in evaluation."""
    if not buffers:
        return "this is a defect of slimmable, please report it with the network"
    return (
        f"in evaluation the network writes its buffers {', '.join(buffers)}, on which its next output may depend: "
        "write them in training only (if self.training), or convert the part of the network that "
        "keeps no count of its calls"
    )


@contextmanager
def _running(
    model: nn.Module, check: Callable[[str, tuple[Any, ...]], None] = lambda _path, _args: None
) -> Iterator[list[str]]:
    """Paths of the modules that are running, innermost last; after an error the list stays as it was then.

    ``check`` is called with every module's path and positional arguments when it begins.
    """
    paths: list[str] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            paths.append(path)
            check(path, args)

        return hook

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
    if cls.__module__.startswith("torch.nn.modules") and not list(model.get_submodule(path).children()):
        return [path]  # a layer such as a convolution: others of its class have nothing to do with it
    return [other for other, module in model.named_modules() if type(module) is cls]
