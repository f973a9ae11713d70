"""Which attributes of modules the code passes as sizes: where several have one value, the value does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimmable.core.twins import hollow, hollow_inputs, twin

Size = int | tuple[int, ...] | list[int]
"""A module's attribute that may be the size of an axis, or of several."""

Place = tuple[str, int, int, int]
"""Path of a module, number of the sizes that it passes to an operator, which of them, and its value."""

Origins = Mapping[Place, frozenset[str]]
"""Names of the attributes that a module passed at a place."""


def sizes_of(model: nn.Module) -> dict[str, dict[str, Size]]:
    """Whole numbers above 1, and tuples and lists of them, that modules keep as attributes: by path and name."""
    found = {
        path: {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_size(value)}
        for path, module in model.named_modules()
    }
    return {path: values for path, values in found.items() if values}


def _is_size(value: Any) -> bool:
    if type(value) in (tuple, list):
        return bool(value) and all(type(part) is int for part in value)
    return type(value) is int and value > 1


def origins_of(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[dict[str, dict[str, Size]], Origins]:
    """Attributes that may be sizes, and where ``model`` passes them, found by running it once.

    Its whole numbers are replaced by equal ones that know their names, in a copy that runs without data, if it can. Of
    a module of its own, one that is never passed on, or only reckoned with, such as a factor or a number of steps, is
    no size, whatever its value. Where the code does not take such numbers, all remain that have the value of one.
    """
    sizes = sizes_of(model)
    own = {path: values for path, values in sizes.items() if not _is_torchs(model.get_submodule(path))}
    for device in ("meta", "cpu") if own else ():
        copied = hollow(model) if device == "meta" else twin(model)
        inputs = hollow_inputs(example_inputs) if device == "meta" else example_inputs
        watch = _Watch()
        _name(copied, own, watch)
        try:
            with torch.no_grad(), torch.device(device) if device == "meta" else nullcontext(), watch:
                copied(*inputs)
        except Exception:
            continue
        for path, values in own.items():
            sizes[path] = {name: value for name, value in values.items() if (path, name) in watch.passed}
        places = {place: frozenset(names) for place, names in watch.found.items()}
        return {path: values for path, values in sizes.items() if values}, places
    return sizes, {}


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules")


class _Named(int):
    """A whole number that knows which attribute of which module it is, or was reckoned from."""

    path: str
    name: str
    watch: _Watch

    def __eq__(self, other: object) -> bool:
        self.watch.passed.add((self.path, self.name))  # code that compares a size with this one expects them equal
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def _reckoned(name: str) -> Callable[[_Named, Any], Any]:
    reckon = getattr(int, name)

    def method(self: _Named, other: Any) -> Any:
        value = reckon(self, other)
        return _named(value, self.path, self.name, self.watch) if type(value) is int else value

    return method


for _each in ("add", "sub", "mul", "floordiv", "mod"):
    for _name_of_method in (f"__{_each}__", f"__r{_each}__"):
        setattr(_Named, _name_of_method, _reckoned(_name_of_method))


class _Watch(TorchFunctionMode):
    """Notes the named numbers among the arguments of calls, but for those that are factors and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Place, set[str]] = {}
        self.passed: set[tuple[str, str]] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").strip("_") not in _ARITHMETIC:
            for value in (*args, *(kwargs or {}).values()):
                self._note(value if isinstance(value, tuple | list) else [value])
            self._note(args[1:])
        return func(*args, **(kwargs or {}))

    def _note(self, values: Any) -> None:
        for position, value in enumerate(values):
            for each in (value.start, value.stop) if isinstance(value, slice) else (value,):
                if isinstance(each, _Named):
                    self.found.setdefault((each.path, len(values), position, int(each)), set()).add(each.name)
                    self.passed.add((each.path, each.name))


_ARITHMETIC = frozenset(
    f"{prefix}{name}"
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide", "floordiv", "floor_divide", "pow", "remainder")
    for prefix in ("", "r", "i")
)
"""Functions of which a whole number is no size: names without underscores around."""


def _name(model: nn.Module, sizes: Mapping[str, Mapping[str, Size]], watch: _Watch) -> None:
    """Replace attributes by numbers that know their names."""
    for path, values in sizes.items():
        for name, value in values.items():
            if isinstance(value, int):
                named: Any = _named(value, path, name, watch)
            else:
                named = type(value)(_named(each, path, name, watch) for each in value)
            vars(model.get_submodule(path))[name] = named


def _named(value: int, path: str, name: str, watch: _Watch) -> _Named:
    number = _Named(value)
    number.path, number.name, number.watch = path, name, watch
    return number
