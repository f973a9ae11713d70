"""Costs by name: what budgets are stated in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.cost.analytic import CostModel
from slimmable.errors import CostError


class Cost(Protocol):
    """What widths cost, for many of them at once."""

    @property
    def name(self) -> str:
        """Short, for tables and budgets."""
        ...

    @property
    def unit(self) -> str:
        """What the numbers count."""
        ...

    def __call__(self, widths: Sequence[Widths], /) -> NDArray[Any]:
        """The cost of each, shape ``(len(widths),)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class NamedCost:
    """A function of widths with a name and a unit: one of :data:`COSTS`, or a user's own.

    Args:
        name: Short, for tables and budgets.
        unit: What the numbers count.
        of: From widths to their costs, shape ``(len(widths),)``.

    >>> import numpy as np
    >>> channels = NamedCost(name="channels", unit="", of=lambda many: np.array([sum(each.channels) for each in many]))
    >>> channels([Widths.of({"stem": 16, "head": 32})])
    array([48])
    """

    name: str
    unit: str
    of: Callable[[Sequence[Widths]], NDArray[Any]]

    def __call__(self, widths: Sequence[Widths], /) -> NDArray[Any]:
        """The cost of each, shape ``(len(widths),)``."""
        return self.of(widths)


COSTS = {
    "macs": ("MACs", "macs"),
    "parameters": ("parameters", "parameters"),
    "activations": ("bytes", "activation_bytes"),
    "memory": ("bytes", "memory_bytes"),
    "peak_memory": ("bytes", "peak_memory_bytes"),
}
"""Unit, and method of :class:`~slimmable.cost.analytic.CostModel`, of every cost in closed form."""


def closed_form(net: SlimmableModel, name: str) -> NamedCost:
    """The cost called ``name`` of a network, one of :data:`COSTS`.

    Raises:
        CostError: There is none of that name.
    """
    if name not in COSTS:
        raise CostError(f"there is no cost called {name!r}; expected one of {', '.join(COSTS)}, or a measured latency")
    unit, method = COSTS[name]
    return NamedCost(name=name, unit=unit, of=getattr(CostModel(net), method))
