"""Nested state as flat named tensors and JSON, the two things a safetensors file holds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slimmable.errors import CheckpointError


def pack(state: object, *, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of nested dictionaries, lists and tuples.

    Args:
        state: Such as ``optimizer.state_dict()``: numbers, text, None and tensors at the leaves; keys of any of JSON's
            scalar types, whole numbers among them.
        prefix: Begins the name of every tensor.

    Returns:
        The tensors by name, and the rest in JSON types with a reference where each tensor was. :func:`unpack` is the
        inverse.

    Raises:
        CheckpointError: A leaf of another type.

    Example:
        >>> import torch
        >>> tensors, rest = pack({"state": {0: {"buffer": torch.ones(2)}}, "betas": (0.9, 0.99)}, prefix="optimizer")
        >>> tensors
        {'optimizer.0': tensor([1., 1.])}
        >>> unpack(rest, tensors)["betas"]
        (0.9, 0.99)
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: object) -> Any:
        if isinstance(value, Tensor):
            name = f"{prefix}.{len(tensors)}"
            tensors[name] = value.detach()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"items": [[key, walk(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [walk(item) for item in value]}
        if isinstance(value, list):
            return [walk(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise CheckpointError(
            f"{prefix} state holds a {type(value).__name__}, which cannot be written without pickle; "
            "expected tensors, numbers, text, mappings, lists and tuples"
        )

    rest = walk(state)
    return tensors, rest


def unpack(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back: the inverse of :func:`pack`.

    Raises:
        CheckpointError: A tensor is missing, or ``rest`` did not come from :func:`pack`.
    """
    if isinstance(rest, list):
        return [unpack(item, tensors) for item in rest]
    if not isinstance(rest, dict):
        return rest
    match rest:
        case {"tensor": name}:
            if name not in tensors:
                raise CheckpointError(f"the checkpoint lacks the tensor {name!r}; it is damaged")
            return tensors[name]
        case {"items": items}:
            return {key: unpack(item, tensors) for key, item in items}
        case {"tuple": items}:
            return tuple(unpack(item, tensors) for item in items)
    raise CheckpointError(f"the checkpoint holds an entry with keys {sorted(rest)}; it is damaged")
