"""What a checkpoint says of its network besides tensors, held against a network's own: space and kind of batch norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimmable.core.space import WidthSpace
from slimmable.core.state import BatchNorm
from slimmable.errors import CheckpointError


def check_description(space: WidthSpace, batch_norm: BatchNorm, metadata: Mapping[str, Any]) -> None:
    """Pass if a checkpoint's network is of the structure of ours.

    Raises:
        CheckpointError: It is not; the message names the first difference.
    """
    check_space(space, metadata["space"])
    if metadata["batch_norm"] != batch_norm:
        raise CheckpointError(
            f"the checkpoint's batch norm is {metadata['batch_norm']}, this network's is {batch_norm}; "
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
