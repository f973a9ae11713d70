"""The state of a run at the end of an epoch, in one file without pickle.

A checkpoint is a safetensors file. Its tensors are the network's (``network.*``), the optimizer's (``optimizer.*``)
and the averaged weights (``average.*``); its metadata holds one JSON text under ``slimmable.train`` with the rest:
settings, finished epochs and steps, history, sampler. It is written whole or not at all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from slimmable.core.checkpoint import network_metadata, network_tensors, restore_network
from slimmable.core.model import SlimmableModel
from slimmable.errors import CheckpointError
from slimmable.record import Json, atomic_path, jsonable
from slimmable.train.ema import MovingAverage
from slimmable.train.packing import pack, unpack
from slimmable.train.samplers import WidthSampler
from slimmable.train.settings import TrainSettings

VERSION = 1
_KEY = "slimmable.train"


@dataclass(kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps.
        history: One entry per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Json]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything of a run that changes while it trains."""

    net: SlimmableModel
    optimizer: Optimizer
    average: MovingAverage | None
    sampler: WidthSampler
    progress: Progress


def save_checkpoint(state: RunState, path: str | Path, *, settings: TrainSettings) -> None:
    """Write ``state`` to ``path``, whole or not at all.

    Args:
        state: The run between two epochs.
        path: Usually ``last.safetensors`` in the run's folder.
        settings: Kept with it: only a run with the same ones may continue it.
    """
    optimizer_tensors, optimizer = pack(state.optimizer.state_dict(), prefix="optimizer")
    average = state.average
    tensors = {
        **{f"network.{name}": tensor for name, tensor in network_tensors(state.net).items()},
        **optimizer_tensors,
        **({f"average.{name}": tensor for name, tensor in average.tensors.items()} if average else {}),
    }
    metadata = {
        "version": VERSION,
        "settings": jsonable(settings),
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "history": state.progress.history,
        "sampler": state.sampler.state_dict(),
        "network": network_metadata(state.net),
        "optimizer": optimizer,
        "average_steps": average.steps if average else None,
    }
    # Clones: safetensors refuses tensors that share storage or are not contiguous (channels last).
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(plain, metadata={_KEY: json.dumps(metadata)}))


def load_checkpoint(state: RunState, path: str | Path, *, settings: TrainSettings) -> None:
    """Bring ``state`` to where :func:`save_checkpoint` left it, in place.

    Args:
        state: A new run of the same network, sampler and settings.
        path: The file.
        settings: The settings of the run that goes on.

    Raises:
        CheckpointError: The file is missing, damaged, of another version, or of another run: the first difference is
            named.
    """
    metadata, tensors = read_checkpoint(path)
    _check_settings(metadata["settings"], jsonable(settings), path)
    state.sampler.load_state_dict(metadata["sampler"])
    restore_network(state.net, _under("network.", tensors), metadata["network"])
    _restore_optimizer(state.optimizer, unpack(metadata["optimizer"], tensors))
    if state.average is not None:
        state.average.restore(state.net, _under("average.", tensors), steps=metadata["average_steps"])
    state.progress.epoch = metadata["epoch"]
    state.progress.step = metadata["step"]
    state.progress.history[:] = metadata["history"]


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a checkpoint, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, or of another version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        metadata = json.loads(text) if text is not None else {}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; it is damaged or not a checkpoint") from error
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has training checkpoint version {metadata.get('version')}; expected {VERSION}: "
            "it was written by another release, or holds a network only (see load_network)"
        )
    return metadata, tensors


def load_trained(net: SlimmableModel, path: str | Path) -> None:
    """Give ``net`` the weights and statistics of a training checkpoint, the averaged ones if the run kept an average.

    Raises:
        CheckpointError: The file is missing, damaged, or of another network.
    """
    metadata, tensors = read_checkpoint(path)
    restore_network(net, _under("network.", tensors), metadata["network"])
    if metadata["average_steps"] is not None:
        average = MovingAverage(net, decay=0.0)
        average.restore(net, _under("average.", tensors), steps=metadata["average_steps"])
        average.copy_to(net)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_settings(found: Json, expected: Json, path: str | Path, name: str = "settings") -> None:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {**expected, **found}:
            _check_settings(found.get(key), expected.get(key), path, f"{name}.{key}")
    elif found != expected:
        raise CheckpointError(
            f"{path} was trained with {name} = {found!r}, this run has {expected!r}; "
            "resume with the same settings, or start in another folder"
        )


def _restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the optimizer's state in the checkpoint does not fit this network: {error}") from error
    # Stored tensors are contiguous. Fused kernels read memory in order, so a buffer must lie as its parameter does.
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
