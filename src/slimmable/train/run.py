"""A run before its first step and after its last: device, memory format, folder, record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn

from slimmable.core.checkpoint import network_metadata
from slimmable.core.model import SlimmableModel
from slimmable.errors import DataError, RecipeError, TrainingError
from slimmable.record import Json, RunRecord, Status, environment, jsonable
from slimmable.train.checkpoint import Progress, RunState, load_checkpoint
from slimmable.train.ema import MovingAverage
from slimmable.train.optim import parameter_groups
from slimmable.train.samplers import WidthSampler
from slimmable.train.settings import TrainSettings
from slimmable.train.task import Task

CHECKPOINT = "last.safetensors"
RECORD = "record.json"
CURVES = "curves"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, how, and how far it has come.

    Attributes:
        task: With its batches on ``device``.
        settings: Of the loop.
        state: What changes while it trains.
        device: Where it trains.
    """

    task: Task
    settings: TrainSettings
    state: RunState
    device: torch.device

    @classmethod
    def prepare(
        cls,
        net: SlimmableModel,
        task: Task,
        sampler: WidthSampler,
        settings: TrainSettings,
        device: torch.device | str | None,
    ) -> Self:
        """A run that has not begun: the network moved to its device and memory format, a new optimizer.

        Raises:
            TrainingError: An embedding asks for sparse gradients.
            RecipeError: Settings that do not suit the network.
        """
        _require_dense_gradients(net)
        place = torch.device(device) if device is not None else next(net.parameters()).device
        net.to(place)
        if _wants_channels_last(net, settings, place):
            # The stub of nn.Module.to knows no memory format.
            cast(Any, net).to(memory_format=torch.channels_last)
        groups = parameter_groups(net, weight_decay=settings.weight_decay, decay_depthwise=settings.decay_depthwise)
        state = RunState(
            net=net,
            optimizer=settings.optimizer.build(groups, lr=settings.lr),
            average=MovingAverage(net, decay=settings.ema_decay) if settings.ema_decay is not None else None,
            sampler=sampler,
            progress=Progress(),
        )
        return cls(task=task.to(place), settings=settings, state=state, device=place)


def _require_dense_gradients(net: SlimmableModel) -> None:
    """Pass if no trained embedding asks for sparse gradients: those of several widths are added up in place."""
    parameters, modules = dict(net.model.named_parameters(remove_duplicate=False)), dict(net.model.named_modules())
    trace = net.analysis.trace
    for call in trace.calls:
        if "embedding" not in call.name or not call.values.get("sparse"):
            continue
        weight, module = parameters.get(trace.parameters.get(call.values["weight"], "")), modules.get(call.module)
        turned_off = isinstance(module, nn.Embedding | nn.EmbeddingBag) and not module.sparse
        if weight is not None and weight.requires_grad and not turned_off:
            raise TrainingError(
                f"embedding {call.module!r} has sparse=True; expected dense gradients, in which several widths "
                "are added up: set sparse=False in that layer before the conversion, or freeze its weight"
            )


def load_or_refuse(run: Run, home: Path | None, *, resume: bool) -> None:
    """Continue the run in ``home``, if there is one and ``resume`` allows it.

    Raises:
        TrainingError: There is one and ``resume`` does not allow it.
        RecipeError: ``resume`` without a folder.
        CheckpointError: The one there was another run, or the network cannot be written.
    """
    if home is None:
        if resume:
            raise RecipeError("fit(resume=True) has no folder to resume from; pass folder=")
        return
    network_metadata(run.state.net)  # what cannot be written is refused now, not after an epoch
    path = home / CHECKPOINT
    if not path.exists():
        return
    if not resume:
        raise TrainingError(f"{home} already holds a run; pass resume=True to continue it, or another folder")
    load_checkpoint(run.state, path, settings=run.settings)


def new_record(run: Run, home: Path | None) -> RunRecord:
    """The record of ``run``, which shares its history; a resumed run keeps the date of its first start."""
    record = RunRecord(
        task=run.task.name,
        metric=run.task.metric,
        higher_is_better=run.task.higher_is_better,
        settings=cast(dict[str, Json], jsonable(run.settings)),
        sampler=run.state.sampler.state_dict(),
        environment=environment(device=_device_name(run.device), threads=torch.get_num_threads()),
        history=run.state.progress.history,
    )
    if home is not None and run.state.progress.epoch > 0:
        try:
            record.created = RunRecord.load(home / RECORD).created
        except DataError:
            # The checkpoint has all that training needs; a lost record is written anew.
            record.created = record.updated
    return record


@contextmanager
def status_kept(record: RunRecord, home: Path | None) -> Iterator[None]:
    """Write the record at the start of the block, and at its end how it ended, be it in an error."""
    status: Status = "failed"
    try:
        if home is not None:
            record.save(home / RECORD)
        yield
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        record.status = status
        if home is not None:
            record.save(home / RECORD)


def _wants_channels_last(net: SlimmableModel, settings: TrainSettings, device: torch.device) -> bool:
    dimensions = {parameter.dim() for parameter in net.parameters()}
    if settings.channels_last == "always" and 5 in dimensions:
        raise RecipeError("TrainSettings.channels_last is 'always', but the network has three-dimensional convolutions")
    if settings.channels_last != "auto":
        return settings.channels_last == "always"
    # Batch norm on CPUs is several times slower in channels last at counts that are no multiples of 8.
    aligned = all(choice % 8 == 0 for group in net.space.groups for choice in group.choices)
    faster = device.type == "cpu" or (device.type == "cuda" and settings.precision == "bfloat16")
    return 4 in dimensions and 5 not in dimensions and aligned and faster


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
