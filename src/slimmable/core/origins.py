"""Which attributes of modules the code passes as sizes: where several have one value, the value does not say."""

from __future__ import annotations

from collections.abc import Mapping
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


def origins_of(model: nn.Module, example_inputs: tuple[Any, ...]) -> Origins:
    """Attributes that ``model`` passes to reshapes and splits as they are, found by running it once.

    Its whole numbers are replaced by equal ones that know their names, in a copy that runs without data, if it can.
    Nothing is found where no module keeps one number under two names, or where the code does not take such numbers.
    """
    sizes = {path: values for path, values in sizes_of(model).items() if _ambiguous(model.get_submodule(path), values)}
    if not sizes:
        return {}
    for device in ("meta", "cpu"):
        copied = hollow(model) if device == "meta" else twin(model)
        inputs = hollow_inputs(example_inputs) if device == "meta" else example_inputs
        watch = _Watch()
        _name(copied, sizes)
        try:
            with torch.no_grad(), torch.device(device) if device == "meta" else nullcontext(), watch:
                copied(*inputs)
        except Exception:
            continue
        return {place: frozenset(names) for place, names in watch.found.items()}
    return {}


def _ambiguous(module: nn.Module, values: Mapping[str, Size]) -> bool:
    numbers = [value for value in values.values() if isinstance(value, int)]
    return not type(module).__module__.startswith("torch.nn.modules") and len(set(numbers)) < len(numbers)


class _Named(int):
    """A whole number that knows which attribute of which module it is."""

    path: str
    name: str


class _Watch(TorchFunctionMode):
    """Notes the named numbers among the arguments of reshapes and splits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Place, set[str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            self._note(value if isinstance(value, tuple | list) else [value])
        self._note(args[1:])
        return func(*args, **(kwargs or {}))

    def _note(self, values: Any) -> None:
        for position, value in enumerate(values):
            if isinstance(value, _Named):
                self.found.setdefault((value.path, len(values), position, int(value)), set()).add(value.name)


def _name(model: nn.Module, sizes: Mapping[str, Mapping[str, Size]]) -> None:
    """Replace attributes by numbers that know their names."""
    for path, values in sizes.items():
        for name, value in values.items():
            if isinstance(value, int):
                number = _Named(value)
                number.path, number.name = path, name
                vars(model.get_submodule(path))[name] = number
