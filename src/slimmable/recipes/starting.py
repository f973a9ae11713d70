"""What a new network begins with: weights of another run, and statistics that training will not change."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from slimmable.core.model import SlimmableModel
from slimmable.errors import CheckpointError, RecipeError
from slimmable.recipes.methods import Section


class StartSettings(Section):
    """Weights of a finished run that a new network begins with, such as a backbone's.

    Attributes:
        run: Folder of the run.
        into: Path of the module that takes them, such as ``detector.backbone.body``; the network itself unless said
            otherwise. Every layer takes the tensors of the run's layer of the same name below it.
        least: Part of the tensors of ``into`` that the run must have.
    """

    run: str
    into: str = ""
    least: float = Field(default=1.0, gt=0, le=1)


def take_over(
    net: SlimmableModel, source: SlimmableModel, settings: StartSettings, *, ratios: Collection[float] = ()
) -> None:
    """Copy weights, and the batch norms of switches, from the network of a run into ``net``.

    Args:
        net: A new network.
        source: The network of the run.
        settings: Where the weights go.
        ratios: Of switches that both networks have; batch norms of others stay as they were.

    Raises:
        CheckpointError: The networks have other layers, or layers of other sizes.
    """
    prefix = f"{settings.into}." if settings.into else ""
    ours = net.model.state_dict()
    mine = {name.removeprefix(prefix): value for name, value in ours.items() if name.startswith(prefix)}
    copied = _copy(mine, source.model.state_dict(), settings)
    if not mine or copied < settings.least * len(mine):
        raise CheckpointError(
            f"the run in {settings.run} has {copied} of the {len(mine)} tensors of {settings.into or 'the network'}; "
            "expected a run of the same layers: name it in start.run, or the module that takes them in start.into"
        )
    places = {layer.path: i for i, layer in enumerate(source.norm_layers)}
    for ratio in ratios:
        own, other = (each.table(each.space.uniform(ratio)) for each in (net, source))
        for i, layer in enumerate(net.norm_layers):
            place = places.get(layer.path.removeprefix(prefix))
            if own is None or other is None or place is None:
                continue
            names = ("mean", "var", "count", "weight", "bias")
            here = {name: own.value(i, name) for name in names}
            _copy(here, {name: other.value(place, name) for name in names}, settings)


def _copy(ours: Mapping[str, Any], theirs: Mapping[str, Any], settings: StartSettings) -> int:
    copied = 0
    for name, target in ours.items():
        value = theirs.get(name)
        if not isinstance(target, Tensor) or not isinstance(value, Tensor):
            continue
        if value.shape != target.shape:
            raise CheckpointError(
                f"{name} is {tuple(value.shape)} in {settings.run}, here it is {tuple(target.shape)}; expected a run "
                "of the same network at the same width before conversion"
            )
        with torch.no_grad():
            target.copy_(value)
        copied += 1
    return copied


def holds_statistics(net: SlimmableModel) -> bool:
    """Whether batch norms of ``net`` keep their statistics in training.

    Raises:
        RecipeError: They do, but the network has no switches to which statistics could belong.
    """
    training = net.training
    held = any(not layer.module.training for layer in net.train().norm_layers)
    net.train(training)
    if held and net.batch_norm != "private":
        raise RecipeError(
            "task.network.norm is frozen, but the method trains widths that have no statistics of their own; expected "
            "method.kind=s-net or independent, or task.network.norm=calibrated"
        )
    return held
