"""What a new network begins with: weights of another run, and statistics that training will not change."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from slimmable.core.model import SlimmableModel
from slimmable.core.norms import NormLayer
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import CheckpointError, RecipeError
from slimmable.recipes.methods import Section

_GAINS = ("weight", "bias")
_STATISTICS = ("mean", "var", "count")


class StartSettings(Section):
    """Weights of a finished run that a new network begins with, such as a backbone's.

    Attributes:
        run: Folder of the run.
        into: Path of the module that takes them, such as ``detector.backbone.body``; the network itself unless said
            otherwise. Every layer takes the tensors of the run's layer of the same name below it.
        least: Part of the tensors of ``into`` that the run must have, gains and shifts of switches included.
    """

    run: str
    into: str = ""
    least: float = Field(default=1.0, gt=0, le=1)


def take_over(net: SlimmableModel, source: SlimmableModel, settings: StartSettings) -> tuple[Widths, ...]:
    """Copy weights and batch norms from the network of a run into ``net``.

    A switch takes the batch norms of the run's switch that keeps the same channels. Where the widths of the run share
    gains and shifts (US-Net), every switch takes those of its active channels, and the statistics that the run has
    measured for these channels, if it has.

    Args:
        net: A new network.
        source: The network of the run.
        settings: Where the weights go.

    Returns:
        The widths of which all statistics came along.

    Raises:
        CheckpointError: The networks have other layers, or layers of other sizes; or the run's batch norms are private
            to switches that are not all those of ``net``.
    """
    prefix = f"{settings.into}." if settings.into else ""
    ours = net.model.state_dict()
    mine = {name.removeprefix(prefix): value for name, value in ours.items() if name.startswith(prefix)}
    copied, wanted = _copy(mine, source.model.state_dict(), settings), len(mine)
    places = {f"{prefix}{layer.path}": place for place, layer in enumerate(source.norm_layers)}
    pairs = {i: places[layer.path] for i, layer in enumerate(net.norm_layers) if layer.path in places}
    private = [layer for layer in net.norm_layers if net.batch_norm == "private" and layer.path.startswith(prefix)]
    brought: list[Widths] = []
    for widths in net.stored:
        known = _counterpart(net, source, widths, pairs)
        if known is None and pairs and private and source.batch_norm == "private":
            raise _lacking(net, source, widths, settings)
        copied += _copy_norms(net, source, widths, known, pairs, settings)
        wanted += sum(len(layer.affine) for layer in private)
        if known in source.calibrated and len(pairs) == len(net.norm_layers):
            brought.append(widths)
    if not wanted or copied < settings.least * wanted:
        raise CheckpointError(
            f"the run in {settings.run} has {copied} of the {wanted} tensors of {settings.into or 'the network'}; "
            "expected a run of the same layers: name it in start.run, or the module that takes them in start.into"
        )
    return tuple(brought)


def _counterpart(
    net: SlimmableModel, source: SlimmableModel, widths: Widths, pairs: Mapping[int, int]
) -> Widths | None:
    """Widths that ``source`` has statistics of, at which its layers keep the channels that those of ``net`` keep."""
    ours, theirs = net.space.largest.channels, source.space.largest.channels
    active = [net.norm_layers[i].axis.active(widths.channels, ours) for i in pairs]
    known = source.switches if source.batch_norm == "private" else source.calibrated
    for each in sorted(known, key=lambda each: each != widths):
        if active == [source.norm_layers[i].axis.active(each.channels, theirs) for i in pairs.values()]:
            return each
    return None


def _copy_norms(
    net: SlimmableModel,
    source: SlimmableModel,
    widths: Widths,
    known: Widths | None,
    pairs: Mapping[int, int],
    settings: StartSettings,
) -> int:
    """Fill the table of ``widths`` from that of ``known`` and from what all widths share; how many gains and shifts."""
    own, other = net.table(widths), None if known is None else source.table(known)
    assert own is not None
    copied = 0
    for i, place in pairs.items():
        layer = net.norm_layers[i]
        gains, statistics = ({name: own.value(i, name) for name in names} for names in (_GAINS, _STATISTICS))
        theirs = _shared(layer, source.norm_layers[place], net, widths, settings)
        if other is not None:
            values = {name: other.value(place, name) for name in (*_GAINS, *_STATISTICS)}
            theirs |= {name: value for name, value in values.items() if value is not None}
            _copy(statistics, theirs, settings)
        copied += _copy(gains, theirs, settings)
    return copied


def _shared(
    layer: NormLayer, theirs: NormLayer, net: SlimmableModel, widths: Widths, settings: StartSettings
) -> dict[str, Tensor]:
    """Entries, active at ``widths``, of the gains and shifts that a run's layer has for all widths."""
    maximum = net.space.largest.channels
    found: dict[str, Tensor] = {}
    for name in theirs.affine:
        full = theirs.module._parameters[name]
        if full is not None:
            _require_shape(f"{theirs.path}.{name}", full, (layer.axis.size(maximum),), settings)
            runs = layer.axis.active(widths.channels, maximum)
            found[name] = torch.cat([full.detach().narrow(0, start, length) for start, length in runs])
    return found


def _lacking(net: SlimmableModel, source: SlimmableModel, widths: Widths, settings: StartSettings) -> CheckpointError:
    found, expected = (", ".join(_called(each, its.space) for each in its.switches) for its in (source, net))
    return CheckpointError(
        f"the run in {settings.run} has batch norms for the switches {found}, and none for "
        f"{_called(widths, net.space)}; expected a run with all switches of the new network ({expected}), or one of "
        "us-net, whose gains and shifts are for all widths: name it in start.run, or train the run's switches alone"
    )


def _called(widths: Widths, space: WidthSpace) -> str:
    """The ratio of uniform widths; others as they are."""
    groups = sorted(space.groups, key=lambda group: -group.base)
    ratios = (round(widths[group.name] / group.base, 2) for group in groups)
    fitting = (each for each in ratios if space.min_ratio <= each <= space.max_ratio and space.uniform(each) == widths)
    return next(map(str, fitting), str(widths))


def _copy(ours: Mapping[str, Any], theirs: Mapping[str, Any], settings: StartSettings) -> int:
    copied = 0
    for name, target in ours.items():
        value = theirs.get(name)
        if not isinstance(target, Tensor) or not isinstance(value, Tensor):
            continue
        _require_shape(name, value, target.shape, settings)
        with torch.no_grad():
            target.copy_(value)
        copied += 1
    return copied


def _require_shape(name: str, theirs: Tensor, shape: Sequence[int], settings: StartSettings) -> None:
    if theirs.shape != tuple(shape):
        raise CheckpointError(
            f"{name} is {tuple(theirs.shape)} in {settings.run}, here it is {tuple(shape)}; expected a run "
            "of the same network at the same width before conversion"
        )


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
