"""What a network's structure is, for its checkpoint: groups and their members, tensors and their axes, operators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from slimmable.core.axes import Axis
from slimmable.core.compare import COPIES
from slimmable.errors import CheckpointError

if TYPE_CHECKING:
    from slimmable.core.model import SlimmableModel


def structure_of(net: SlimmableModel) -> dict[str, Any]:
    """The structure of a network as JSON.

    ``groups`` are the layers that each width group leaves and enters; ``tensors`` the axes of every parameter and
    buffer that the graph reads, whole numbers or segments ``[group, positions, for how many channels]``; ``operators``
    what the graph calls, in order, with the calling module.
    """
    groups, names = net.report.groups, net.space.names
    axes = net.grouping.axis
    return {
        "groups": [
            {"name": each.name, "producers": list(each.producers), "consumers": list(each.consumers)} for each in groups
        ],
        "tensors": {
            name: [_described(axes(layout), names) for layout in layouts]
            for name, layouts in net.analysis.parameters.items()
        },
        "operators": [[call.name, call.module] for call in net.analysis.trace.calls if call.name not in COPIES],
        "torch": _release(),
    }


def fingerprint(structure: Mapping[str, Any]) -> str:
    """A hash over a structure: equal for two networks exactly if their tensors, axes, groups and operators are.

    >>> fingerprint({"groups": [], "tensors": {}, "operators": [], "torch": "2.12"})[:8]
    '8a499aab'
    """
    content = {key: structure[key] for key in ("groups", "tensors", "operators")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_structure(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Pass if a checkpoint's structure is ours.

    Operators are compared where the same release of torch traced both: others may name them otherwise.

    Raises:
        CheckpointError: It is not; the message names the first difference.
    """
    cure = "convert the same network with the same options, or load the file alone: slimmable.load(path)"
    for name, axes in theirs["tensors"].items():
        if name not in ours["tensors"]:
            raise CheckpointError(f"the checkpoint's network reads a tensor {name!r}, this one does not; {cure}")
        if axes != ours["tensors"][name]:
            raise CheckpointError(
                f"tensor {name!r} has axes {_shown(axes)} in the checkpoint and {_shown(ours['tensors'][name])} here; "
                f"{cure}"
            )
    for name in ours["tensors"]:
        if name not in theirs["tensors"]:
            raise CheckpointError(f"this network reads a tensor {name!r}, the checkpoint's does not; {cure}")
    if theirs["torch"] == ours["torch"]:
        _check_operators(ours["operators"], theirs["operators"], cure)
        for mine, its in zip(ours["groups"], theirs["groups"], strict=False):
            if mine != its:
                raise CheckpointError(f"a width group has members {its} in the checkpoint and {mine} here; {cure}")


def _check_operators(ours: list[list[str]], theirs: list[list[str]], cure: str) -> None:
    for place, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
        if mine != its:
            raise CheckpointError(
                f"operator {place} is {its[0]} of module {its[1]!r} in the checkpoint and {mine[0]} of module "
                f"{mine[1]!r} here; {cure}"
            )
    if len(ours) != len(theirs):
        raise CheckpointError(
            f"the checkpoint's network calls {len(theirs)} operators, this one {len(ours)}: they are the same up to "
            f"number {min(len(ours), len(theirs))}; {cure}"
        )


def _described(axis: Axis, names: tuple[str, ...]) -> Any:
    if not axis.varies:
        return sum(segment.repeat for segment in axis.segments)
    return [
        segment.repeat if segment.group is None else [names[segment.group], segment.repeat, segment.unit]
        for segment in axis.segments
    ]


def _shown(axes: list[Any]) -> str:
    return json.dumps(axes)


def _release() -> str:
    return ".".join(torch.__version__.split(".")[:2])
