"""Target platforms of one network: what each can afford, and how much it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Literal

from slimmable.errors import SearchError

TARGET_RATIOS: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Uniform widths of MobileNet v1 whose multiply-accumulates are the budgets of the paper's seven platforms."""

TARGET_MACS: tuple[int, ...] = (3_354_112, 7_341_312, 12_213_248, 19_018_496, 26_577_408, 36_200_704, 46_446_592)
"""Multiply-accumulates of MobileNet v1 for 32x32 images and 100 classes at :data:`TARGET_RATIOS`.

Table 1 of the paper prints them in millions with two digits (3.35, 7.34, 12.21, 19.02, 26.58, 36.20, 46.45); some of
those are rounded down, and the uniform width itself would exceed them by a little.
"""

WEIGHTINGS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "S": (0.25, 0.005, 0.01, 0.045, 0.13, 0.31, 0.25),
        "RS": (0.25, 0.31, 0.13, 0.045, 0.01, 0.005, 0.25),
        "U": (0.25, 0.1, 0.1, 0.1, 0.1, 0.1, 0.25),
        "M": (0.25, 0.025, 0.0625, 0.325, 0.0625, 0.025, 0.25),
        "L": (0.25, 0.005, 0.01, 0.02, 0.04, 0.425, 0.25),
        "RL": (0.25, 0.425, 0.04, 0.02, 0.01, 0.005, 0.25),
    }
)
"""How much each of the seven platforms counts: the six weightings of Table 1 of the paper, cheapest platform first.

S (small) and L (large skew) are draws of Chinese restaurant processes, see :func:`weights_of`; RS and RL are their
reverses; U is uniform and M has its peak in the middle, both made by hand.

References:
    Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Table 1.
"""


@dataclass(frozen=True, kw_only=True)
class Platform:
    r"""A place where the network runs.

    Args:
        name: What it is called.
        budget: The most that widths may cost there, in the unit of the cost that is searched with.
        importance: Its weight in the average over platforms, :math:`\mu_k`; 0 or more.
        sampling: How often training turns to it, a probability, :math:`\nu_k`.

    Raises:
        SearchError: A figure outside these ranges, or no name.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Eq. 1 and 4.

    Example:
        >>> Platform(name="watch", budget=3.4e6, importance=0.25, sampling=1 / 7).budget
        3400000.0
    """

    name: str
    budget: float
    importance: float
    sampling: float

    def __post_init__(self) -> None:
        if not self.name:
            raise SearchError("a platform has no name; expected one, such as 'watch'")
        if not (isfinite(self.budget) and self.budget > 0):
            raise SearchError(f"platform {self.name!r} has a budget of {self.budget}; expected a number above 0")
        if not (isfinite(self.importance) and self.importance >= 0):
            raise SearchError(f"platform {self.name!r} has the importance {self.importance}; expected 0 or more")
        if not 0 <= self.sampling <= 1:
            raise SearchError(f"platform {self.name!r} has the sampling {self.sampling}; expected a probability")


def weights_of(
    sizes: Sequence[int], *, peak: Literal["dearest", "cheapest"] = "dearest", ends: float = 0.25
) -> tuple[float, ...]:
    r"""Weights of platforms whose market shares are the tables of a Chinese restaurant.

    The tables share what the first and the last platform leave, in the order of their sizes: the weight of a table of
    :math:`n_b` among :math:`n` customers is :math:`(1 - 2 e) n_b / n`, where :math:`e` is that of each end.

    Args:
        sizes: Customers at each table, in any order, such as
            :meth:`~slimmable.search.ChineseRestaurant.draw_with_tables` gives: the paper has 100 customers at 5 tables.
        peak: Whether the largest table is the dearest or the cheapest of the platforms between the ends.
        ends: Weight of the cheapest and of the dearest platform of all.

    Returns:
        ``len(sizes) + 2`` weights that sum to 1, cheapest platform first.

    Raises:
        SearchError: No tables, an empty one, an unknown peak, or ends that leave nothing.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Table 1.

    Example:
        >>> weights_of([62, 26, 9, 2, 1]) == WEIGHTINGS["S"]
        True
    """
    if not sizes or min(sizes) < 1:
        raise SearchError(f"expected at least one customer at each table, got {tuple(sizes)}")
    if peak not in ("dearest", "cheapest"):
        raise SearchError(f"peak={peak!r}; expected 'dearest' or 'cheapest'")
    if not 0 <= ends < 0.5:
        raise SearchError(f"ends={ends}; expected a weight from 0 to below 0.5 for each of the two")
    ordered = sorted(sizes, reverse=peak == "cheapest")
    return (ends, *((1 - 2 * ends) * size / sum(sizes) for size in ordered), ends)


def weighted_average(values: Sequence[float], weights: Sequence[float]) -> float:
    r"""The average :math:`\sum_k \mu_k v_k / \sum_k \mu_k` of what is reached on each platform.

    Args:
        values: Accuracies or losses, one for each platform.
        weights: How much each platform counts.

    Raises:
        SearchError: Counts that differ, a weight below 0, all of them 0, or a number that is not finite.

    Example:
        >>> weighted_average([60.0, 70.0], [1, 3])
        67.5
    """
    if len(values) != len(weights):
        raise SearchError(f"got {len(values)} values and {len(weights)} weights; expected one weight for each value")
    if not all(map(isfinite, (*values, *weights))):
        raise SearchError("expected finite values and weights, got NaN or an infinity")
    if min(weights, default=0) < 0 or sum(weights) <= 0:
        raise SearchError(f"expected weights of 0 or more, one of them above 0, got {tuple(weights)}")
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
