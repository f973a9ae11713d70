"""Plain tensors of a width as safetensors, which the original network takes and becomes as narrow as they are.

What a module's sizes are stands in the file's metadata: whole numbers among the attributes of each module, and the
modules in whose place batch norm has left nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slimmable.core.twins import solid
from slimmable.errors import CheckpointError
from slimmable.export.standalone.writing import Run
from slimmable.runtime.base import Signature

_FORMAT = "slimmable.tensors/1"

Sizes = int | tuple[int, ...] | list[int]


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path``; what runs it in PyTorch, put into a network of the same classes."""
    state = module.state_dict()
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(each), name) for name, each in module.state_dict(keep_vars=True).items()}
    metadata = {
        "format": "pt",
        "slimmable": _FORMAT,
        "shapes": json.dumps({name: list(each.shape) for name, each in state.items()}),
        "tied": json.dumps({name: other for name, other in tied.items() if name != other}),
        "sizes": json.dumps({path: found for path, each in module.named_modules() if (found := _sizes(each))}),
        "identities": json.dumps([path for path, each in module.named_modules() if type(each) is nn.Identity]),
    }
    kept = {name: each.detach().cpu().contiguous() for name, each in state.items() if tied[name] == name}
    save_file(kept, path, metadata)
    blank = load_tensors(solid(module), path).eval()
    for name, each in module.named_buffers():
        if name not in state:  # made by the network's own code
            blank.get_buffer(name).copy_(each)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = blank(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


def load_tensors(module: nn.Module, path: str | Path) -> nn.Module:
    """Put the tensors of a width into the network that they were cut from, which becomes as narrow as they are.

    Tensors take the place of the module's, sizes among its attributes (``in_channels``, ``num_features``) become the
    file's, and where batch norm was merged into the layer before it, there is an identity.

    Args:
        module: A network of the original code, of any width.
        path: A file in the format ``safetensors`` of :func:`slimmable.export.standalone.write`.

    Returns:
        The module, which is changed.

    Raises:
        CheckpointError: The file is damaged, or belongs to another network.

    Example:
        >>> import tempfile
        >>> from slimmable.export.standalone import write
        >>> path = Path(tempfile.mkdtemp()) / "narrow.safetensors"
        >>> narrow = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)).eval()
        >>> names = Signature(inputs=("x",), outputs=("y",))
        >>> _ = write(narrow, (torch.ones(1, 4),), path, format="safetensors", signature=names)
        >>> load_tensors(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 3)), path)
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        if metadata.get("slimmable") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('slimmable')!r}, expected {_FORMAT!r}")
        sizes, tied, identities = (json.loads(metadata[key]) for key in ("sizes", "tied", "identities"))
        for name in identities:
            _forget(module, name)
        for name, found in sizes.items():
            _resize(module.get_submodule(name), found)
        absent = module.state_dict().keys() - tensors.keys() - tied.keys()
        if absent:
            raise ValueError(f"it has no tensor {min(absent)}")
        for name, tensor in tensors.items():
            _put(module, name, tensor)
        for name, other in tied.items():
            _share(module, name, other)
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {error}; give it the network that the file was written "
            "from, and a whole file"
        ) from error
    return module


def _sizes(module: nn.Module) -> dict[str, Any]:
    """Whole numbers, and sequences of them, among a module's own attributes."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_size(value)}


def _is_size(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(type(each) is int for each in value)
    return type(value) is int


def _resize(module: nn.Module, found: dict[str, Any]) -> None:
    own = vars(module)
    for name, value in found.items():
        if name.startswith("_") or name not in own or not _is_size(own[name]) or not _is_size(value):
            raise ValueError(f"{type(module).__name__} has no size {name!r}")
        own[name] = type(own[name])(value)


def _forget(module: nn.Module, path: str) -> None:
    parent, _, name = path.rpartition(".")
    if not isinstance(module.get_submodule(path), nn.Identity):
        setattr(module.get_submodule(parent), name, nn.Identity())


def _put(module: nn.Module, path: str, tensor: Tensor) -> None:
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    if name in owner._buffers:
        owner._buffers[name] = tensor
    elif name in owner._parameters or name == "bias":  # what batch norm was merged into may have had none
        old = owner._parameters.get(name)
        owner.register_parameter(name, nn.Parameter(tensor, requires_grad=old is None or old.requires_grad))
    else:
        raise ValueError(f"the network has no tensor {path}")


def _share(module: nn.Module, path: str, other: str) -> None:
    parent, _, name = path.rpartition(".")
    owner, (source, _, key) = module.get_submodule(parent), other.rpartition(".")
    held = module.get_submodule(source)
    if name in owner._parameters:
        owner._parameters[name] = held._parameters[key]
    else:
        owner._buffers[name] = held._buffers[key]
