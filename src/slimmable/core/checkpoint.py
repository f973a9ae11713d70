"""Networks on disk: one safetensors file with the full weights, every batch-norm table, space, structure and graph."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slimmable.core.description import check_description, check_space
from slimmable.core.extra_states import extra_states, is_extra, require_extra_states, take_extra_states
from slimmable.core.norms import blank_tensors
from slimmable.core.portable import Portable
from slimmable.core.space import WidthSpace
from slimmable.core.structure import check_structure, fingerprint, structure_of
from slimmable.errors import CheckpointError
from slimmable.record import atomic_write_bytes

if TYPE_CHECKING:
    from slimmable.core.model import SlimmableModel

FORMAT = "slimmable network"
VERSION = 2
"""1 had neither structure nor graph."""

_EXTRA = "_extra_state"
_STATES = "extra_states"
_GRAPH = "portable.graph"
_CONSTANT = "portable.constant."
_TRANSIENT = "portable.buffer."


def save_network(net: SlimmableModel, path: str | Path) -> None:
    """Write a network: weights, statistics by widths, space, structure, and its graph where that can be written.

    With the graph the file runs without the network's code (:func:`load`). The file appears whole or not at all.

    Raises:
        CheckpointError: A module's extra state cannot be written.
        OSError: The file cannot be written.
    """
    structure, portable = structure_of(net), net.origin.portable()
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in network_tensors(net).items()}
    if portable.reason is None:
        lasting = {name.removeprefix("model.") for name in net.state_dict() if name.startswith("model.")}
        passing = {name: each for name, each in net.model.named_buffers() if name not in lasting}
        content |= {f"{_TRANSIENT}{name}": each.detach().cpu().contiguous() for name, each in passing.items()}
        content |= {f"{_CONSTANT}{name}": each.contiguous() for name, each in portable.constants.items()}
        content[_GRAPH] = torch.frombuffer(bytearray(portable.graph), dtype=torch.uint8)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "network": json.dumps(network_metadata(net)),
        "structure": json.dumps(structure),
        "fingerprint": fingerprint(structure),
        "run": json.dumps(_run_metadata(net)),
        "no_graph": portable.reason or "",
    }
    atomic_write_bytes(Path(path), save(_apart(content), metadata))


def _run_metadata(net: SlimmableModel) -> dict[str, Any]:
    """How the network runs now: widths, switches, mode of every module, frozen parameters."""
    return {
        "widths": net.widths.to_json(),
        "switches": [widths.to_json() for widths in net.switches],
        "training": [path for path, module in net.model.named_modules() if module.training],
        "frozen": [name for name, parameter in net.named_parameters() if not parameter.requires_grad],
    }


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file that was read.

    Attributes:
        version: Of its form; the first has neither structure nor graph.
        network: The space and the batch-norm tables.
        structure: See :mod:`slimmable.core.structure`.
        run: How the network ran.
        tensors: Weights and statistics.
        portable: The graph.
        transient: Buffers that belong to no ``state_dict``.
    """

    version: int
    network: dict[str, Any]
    structure: dict[str, Any]
    run: dict[str, Any]
    tensors: dict[str, Tensor]
    portable: Portable
    transient: dict[str, Tensor]


def load_network(net: SlimmableModel, path: str | Path) -> None:
    """Read into ``net`` what :func:`save_network` wrote for a network of the same structure.

    Raises:
        CheckpointError: The file is missing or damaged, or belongs to another structure; the message names the first
            difference.
    """
    file = _read(path)
    if file.version > 1:
        ours = structure_of(net)
        if fingerprint(ours) != fingerprint(file.structure):
            check_space(net.space, file.network["space"])
            check_structure(ours, file.structure)
    restore_network(net, file.tensors, file.network)


@overload
def load(source: str | Path) -> SlimmableModel: ...
@overload
def load(source: SlimmableModel, path: str | Path) -> None: ...
def load(source: SlimmableModel | str | Path, path: str | Path | None = None) -> SlimmableModel | None:
    """The network in a file, or a file read into a network.

    ``slimmable.load(path)`` needs none of the code that the network was made of: the file holds its graph, of
    operators by name. It runs at every width, trains, and takes any batch size; other sizes of images or sequences
    than those of the conversion's example need the code. ``slimmable.load(net, path)`` reads into a converted network
    of the same structure.

    Args:
        source: The file, or a converted network.
        path: The file that is read into ``source``.

    Returns:
        The network at the widths and in the mode (training or evaluation) in which it was saved; None where the file
        was read into one.

    Raises:
        CheckpointError: The file is missing or damaged; it holds no graph; or it belongs to a network of another
            structure than ``source``, whose first difference is named.

    Example:
        >>> import tempfile, torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        >>> net = slimmable.convert(plain, torch.zeros(1, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     slimmable.save(net, f"{folder}/net.safetensors")
        ...     again = slimmable.load(f"{folder}/net.safetensors")
        >>> x = torch.randn(5, 4)
        >>> torch.equal(again(x), net(x))
        True
    """
    from slimmable.core.model import SlimmableModel

    if isinstance(source, SlimmableModel):
        if path is None:
            raise CheckpointError("load(net, path) reads a file into a network; got no path")
        return load_network(source, path)
    if path is not None:
        raise CheckpointError(f"load(net, path) takes a converted network first; got {type(source).__name__}")
    return _load_alone(source)


def _load_alone(path: str | Path) -> SlimmableModel:
    from slimmable.core.restore import restored

    file = _read(path)
    cure = "convert the network from its code and load the file into that: slimmable.load(net, path)"
    if file.version == 1:
        raise CheckpointError(f"{path} was written by a version of slimmable that stored no graph; {cure}")
    if file.portable.reason is not None:
        raise CheckpointError(f"{path} holds no graph: {file.portable.reason}; {cure}")
    try:
        space = WidthSpace.from_json(file.network["space"])
        switches = [space.widths(entry) for entry in file.run["switches"]]
        net = restored(file.portable, file.network["batch_norm"], switches)
        with torch.no_grad():
            for name, buffer in net.model.named_buffers():
                if name in file.transient:
                    buffer.copy_(file.transient[name])
        for name, tensor in net.state_dict().items():
            if name in file.tensors and isinstance(tensor, Tensor) and file.tensors[name].dtype != tensor.dtype:
                net.to(file.tensors[name].dtype)
                break
        restore_network(net, file.tensors, file.network)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name not in file.run["frozen"])
        training = {*file.run["training"]}
        for name, module in net.model.named_modules():
            module.training = name in training
        net.training = "" in training
        net.tables.train(net.training)
        net.set(net.space.widths(file.run["widths"]))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; copy the file again") from error
    return net


def _read(path: str | Path) -> _File:
    """What a file holds.

    Raises:
        CheckpointError: The file is missing or damaged, or from a newer version.
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
        version = int(metadata["version"])
        if version > VERSION:
            raise CheckpointError(f"{path} was written by a newer version of slimmable; update it to read the file")
        described = ("network", "structure", "run") if version > 1 else ("network",)
        texts = {name: json.loads(metadata[name]) for name in described}
        if version > 1 and metadata["fingerprint"] != fingerprint(texts["structure"]):
            raise ValueError("its structure does not have its fingerprint")
        reason = metadata["no_graph"] if version > 1 else ""
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: it does not describe its network ({error!r})") from error

    def under(prefix: str) -> dict[str, Tensor]:
        its = [name for name in tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): tensors.pop(name) for name in its}

    graph = tensors.pop(_GRAPH, torch.empty(0, dtype=torch.uint8))
    if version > 1 and not reason and not graph.numel():
        raise CheckpointError(f"{path} is damaged: it lacks the network's graph; copy the file again")
    return _File(
        version=version,
        network=texts["network"],
        structure=texts.get("structure", {}),
        run=texts.get("run", {}),
        transient=under(_TRANSIENT),
        portable=Portable(graph=graph.numpy().tobytes(), constants=under(_CONSTANT), reason=reason or None),
        tensors=tensors,
    )


def network_tensors(net: SlimmableModel) -> dict[str, Tensor]:
    """Every tensor of a network by name, tied ones once; and tensors that are extra states.

    Raises:
        CheckpointError: A module's extra state cannot be written.
    """
    tensors = {name: value for name, value in extra_states(net).items() if isinstance(value, Tensor)}
    seen: set[int] = set()
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor) and not is_extra(name) and not (value.numel() and value.data_ptr() in seen):
            seen.add(value.data_ptr())
            tensors[name] = value
    return tensors


def network_metadata(net: SlimmableModel) -> dict[str, Any]:
    """What a checkpoint must say besides the tensors: the space, the batch-norm tables and extra states.

    Raises:
        CheckpointError: A module's extra state cannot be written.
    """
    states = {name: value for name, value in extra_states(net).items() if not isinstance(value, Tensor)}
    return json.loads(net.get_extra_state()) | ({_STATES: states} if states else {})


def restore_network(net: SlimmableModel, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Put tensors and tables back into a network of the same structure.

    Raises:
        CheckpointError: Another structure; nothing has been changed.
    """
    try:
        check_description(net.space, net.batch_norm, metadata)
        states = {**metadata.get(_STATES, {}), **{name: each for name, each in tensors.items() if is_extra(name)}}
        tensors = {name: each for name, each in tensors.items() if name not in states}
        require_extra_states(net, states)
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
    state: Any = OrderedDict(tensors | take_extra_states(net, states))
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
    ours = network_tensors(net).items()
    expected = {name: tensor for name, tensor in ours if not name.startswith("tables.") and not is_extra(name)}
    like = torch.empty(0, device="meta")
    for place, entry in enumerate(metadata["tables"]):
        widths = net.space.widths(entry["widths"])
        blank = blank_tensors(net.norm_layers, widths, like, affine=entry["kind"] == "private")
        expected |= {f"tables.{place}.{name}": tensor for name, tensor in blank.items()}
    return expected


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as the file format asks."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart
