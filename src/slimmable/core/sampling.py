"""What everything that chooses widths for training shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from slimmable.core.space import Widths
from slimmable.errors import CheckpointError
from slimmable.record import Json

Probe: TypeAlias = Callable[[Sequence[Widths]], list[float]]
"""Losses of any widths on the batch of a step, against its labels, with batch statistics and without gradients."""


def widest_first(widths_list: Sequence[Widths]) -> tuple[Widths, ...]:
    """The widths by their total number of channels, falling; equal totals keep their order."""
    return tuple(sorted(widths_list, key=lambda widths: -sum(widths.channels)))


def check_same_sampler(found: Mapping[str, Json], expected: Mapping[str, Json]) -> None:
    """Both descriptions agree on every entry of ``expected``.

    Raises:
        CheckpointError: The first entry that differs.
    """
    for key, value in expected.items():
        if key not in found or found[key] != value:
            raise CheckpointError(
                f"the checkpoint's sampler has {key}={found.get(key)!r}, this one {key}={value!r}; "
                "resume with the sampler the run was started with, or start in another folder"
            )
