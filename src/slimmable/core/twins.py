"""Copies of networks that share their tensors, or have tensors without data."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

_ATOMS = frozenset({int, float, bool, str, type(None), type, FunctionType, BuiltinFunctionType, torch.dtype})
"""Types whose values a copy shares."""


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy(model, memo)`` in little more than half the time.

    A module has a dozen attributes of its own, most of them empty dictionaries or plain numbers, which the general copy
    would each look up, take apart and put together. Modules that say themselves how they are copied are asked.

    >>> layer = nn.Linear(2, 3)
    >>> other = copied(layer, {id(layer.weight): layer.weight})
    >>> other.weight is layer.weight, other.bias is layer.bias, torch.equal(other.bias, layer.bias)
    (True, False, True)
    """
    ordinary = [each for each in model.modules() if id(each) not in memo and _is_ordinary(type(each))]
    for module in ordinary:
        memo[id(module)] = object.__new__(type(module))
    for module in ordinary:
        state: dict[str, Any] = module.__getstate__()
        memo[id(module)].__setstate__({name: _part(value, memo) for name, value in state.items()})
    return copy.deepcopy(model, memo)


@cache
def _is_ordinary(cls: type[nn.Module]) -> bool:
    """Whether instances are copied as any module is, by their dictionary alone."""
    mine = (cls.__reduce_ex__, cls.__reduce__, cls.__new__, cls.__getstate__)
    usual = mine == (nn.Module.__reduce_ex__, nn.Module.__reduce__, nn.Module.__new__, nn.Module.__getstate__)
    return usual and not hasattr(cls, "__deepcopy__") and not any(vars(each).get("__slots__") for each in cls.__mro__)


def _part(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of a module's attribute."""
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and all(type(each) in _ATOMS for each in value)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in (dict, OrderedDict) and all(type(key) is str for key in value):
        memo[id(value)] = part = kind()
        part.update((key, _part(each, memo)) for key, each in value.items())
        return part
    return copy.deepcopy(value, memo)


def twin(model: nn.Module) -> nn.Module:
    """The modules copied, the tensors shared: what modules keep from one call to the next stays out of ``model``."""
    return copied(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def hollow(model: nn.Module) -> nn.Module:
    """A copy of a network whose tensors have no data."""
    return _like_on(model, "meta")


def solid(skeleton: nn.Module) -> nn.Module:
    """A copy with tensors of zeros, on the CPU."""
    return _like_on(skeleton, "cpu")


def hollow_inputs(value: Any) -> Any:
    """Example inputs without data."""
    return with_tensors(value, without_data)


def without_data(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and strides on the device without data, a parameter if it is one."""
    return _like(tensor, "meta")


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(with_tensors(each, change) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(each, change) for each in value)
    if isinstance(value, dict):
        return {key: with_tensors(each, change) for key, each in value.items()}
    return value


def _like_on(model: nn.Module, device: str) -> nn.Module:
    return copied(model, {id(each): _like(each, device) for each in (*model.parameters(), *model.buffers())})


def _like(tensor: Tensor, device: str) -> Tensor:
    blank = torch.zeros_like(tensor, device=device, requires_grad=False)
    return nn.Parameter(blank, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank
