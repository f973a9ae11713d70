"""Networks on disk: one safetensors file with the full weights, every batch-norm table, and the space as JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slimmable.core.norms import blank_tensors
from slimmable.core.space import WidthSpace
from slimmable.errors import CheckpointError
from slimmable.record import atomic_write_bytes

if TYPE_CHECKING:
    from slimmable.core.model import SlimmableModel

FORMAT = "slimmable network"
VERSION = 1

_EXTRA = "_extra_state"


def save_network(net: SlimmableModel, path: str | Path) -> None:
    """Write a network: all weights, statistics by widths, and the space. The file appears whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in network_tensors(net).items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "network": json.dumps(network_metadata(net))}
    atomic_write_bytes(Path(path), save(_apart(content), metadata))


def load_network(net: SlimmableModel, path: str | Path) -> None:
    """Read into ``net`` what :func:`save_network` wrote for a network of the same structure.

    Raises:
        CheckpointError: The file is missing or damaged, or belongs to another structure; the message names the first
            difference.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a network: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a network written by slimmable.save (its format is {metadata.get('format')!r})"
        )
    try:
        version, description = int(metadata["version"]), json.loads(metadata["network"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it does not describe its network ({error!r})") from error
    if version > VERSION:
        raise CheckpointError(f"{path} was written by a newer version of slimmable; update it to read the file")
    restore_network(net, tensors, description)


def network_tensors(net: SlimmableModel) -> dict[str, Tensor]:
    """Every tensor of a network by name, tied ones once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor) and not (value.numel() and value.data_ptr() in seen):
            seen.add(value.data_ptr())
            tensors[name] = value
    return tensors


def network_metadata(net: SlimmableModel) -> dict[str, Any]:
    """What a checkpoint must say besides the tensors: the space and the batch-norm tables."""
    return json.loads(net.get_extra_state())


def restore_network(net: SlimmableModel, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Put tensors and tables back into a network of the same structure.

    Raises:
        CheckpointError: Another structure; nothing has been changed.
    """
    try:
        check_description(net, metadata)
        expected = _expected_tensors(net, metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's description of its network is damaged: {error!r}") from error
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}, of shape {tuple(tensor.shape)} here")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {tuple(tensors[name].shape)} in the checkpoint "
                f"and {tuple(tensor.shape)} here"
            )
    unknown = [name for name in tensors if name not in expected]
    if unknown:
        raise CheckpointError(f"the checkpoint has a tensor {unknown[0]!r} that this network does not have")
    state: Any = OrderedDict(tensors)
    state._metadata = net.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]  layers' format versions
    state[_EXTRA] = json.dumps(dict(metadata))
    full = net.state_dict(keep_vars=True)
    aliases = {
        id_: name
        for name, value in full.items()
        if isinstance(value, Tensor)
        for id_ in [value.data_ptr()]
        if name in state
    }
    for name, value in full.items():
        if isinstance(value, Tensor) and name not in state and not name.startswith("tables."):
            state[name] = state[aliases[value.data_ptr()]]
    net.load_state_dict(state)


def _expected_tensors(net: SlimmableModel, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint must hold: the network's own tensors, and those of the tables that the checkpoint lists."""
    expected = {name: tensor for name, tensor in network_tensors(net).items() if not name.startswith("tables.")}
    like = torch.empty(0, device="meta")
    for place, entry in enumerate(metadata["tables"]):
        widths = net.space.widths(entry["widths"])
        blank = blank_tensors(net.norm_layers, widths, like, affine=entry["kind"] == "private")
        expected |= {f"tables.{place}.{name}": tensor for name, tensor in blank.items()}
    return expected


def check_description(net: SlimmableModel, metadata: Mapping[str, Any]) -> None:
    """Pass if a checkpoint's network is of the structure of ours.

    Raises:
        CheckpointError: It is not; the message names the first difference.
    """
    check_space(net.space, metadata["space"])
    if metadata["batch_norm"] != net.batch_norm:
        raise CheckpointError(
            f"the checkpoint's batch norm is {metadata['batch_norm']}, this network's is {net.batch_norm}; "
            "convert with the same switches and batch_norm"
        )


def check_space(ours: WidthSpace, theirs: Mapping[str, Any]) -> None:
    """Pass if a checkpoint's space is ours.

    Raises:
        CheckpointError: It is not; the message names the first difference.
    """
    other = WidthSpace.from_json(theirs)
    for mine, its in zip(ours.groups, other.groups, strict=False):
        if mine != its:
            raise CheckpointError(
                f"the checkpoint's width group is {its}, here it is {mine}; "
                "convert the same network with the same options"
            )
    if len(ours.groups) != len(other.groups):
        raise CheckpointError(
            f"the checkpoint has {len(other.groups)} width groups, this network has {len(ours.groups)}"
        )
    if ours != other:
        raise CheckpointError(
            f"the checkpoint's space has ratios {other.min_ratio} to {other.max_ratio} and ties {other.ties}; "
            f"here they are {ours.min_ratio} to {ours.max_ratio} and {ours.ties}"
        )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as the file format asks."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart
