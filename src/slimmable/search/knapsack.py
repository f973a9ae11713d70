r"""The least loss within a budget, with the budget filled: exact up to a rounding of costs.

Points of the convex hull (:mod:`slimmable.search.budget`) leave a part of the budget unused wherever the hull has a
gap. Here every term of the cost is rounded up to a multiple of :math:`B / n`, and the elimination carries, beside the
choices, how many of the :math:`n` units are spent: where a message of the elimination was a number for each choice, it
is a curve of the least loss over the units; curves of independent parts are joined by a min-plus convolution. The
hull's solution leaves few entries of the tables to look at: one whose every completion has a Lagrangian
:math:`L + \gamma (R - B)` above the loss of that solution cannot be in a better one.

References:
    Optimizing Slimmable Networks for Multiple Target Platforms, Eq. 1.
    Dechter. Bucket Elimination: A Unifying Framework for Reasoning. Artificial Intelligence, 1999.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slimmable.errors import SearchError
from slimmable.search.additive import Additive, Floats
from slimmable.search.budget import Solution, within_budget
from slimmable.search.elimination import Elimination, Step

Integers = NDArray[np.int64]


def fill_budget(
    elimination: Elimination, loss: Additive, cost: Additive, budget: float, *, units: int = 2000
) -> Solution:
    """The least loss of all choices whose cost, each term rounded up to a ``units``-th of the budget, keeps to it.

    What the rounding leaves unused is then spent on single choices that lower the loss. Never worse than the hull's
    solution.

    Args:
        elimination: Of a graph that holds the terms of both functions.
        loss: What is minimised.
        cost: What is bounded.
        budget: Most that ``cost`` may be.
        units: Parts of the budget. The rounding hides at most ``terms / units`` of it.

    Raises:
        SearchError: No choices keep to the budget (the message states the least cost), or ``units`` is below 1.

    Cost:
        On a chain of ``n`` variables of ``K`` alternatives ``n K^2 units`` additions.
    """
    if units < 1:
        raise SearchError(f"expected at least 1 unit, got {units}")
    hull = within_budget(elimination, loss, cost, budget)
    choices = _Curves(elimination, loss, cost, budget, hull, units).best()
    filled = _spend(loss, cost, budget, list(choices)) if choices is not None else hull.choices
    if loss(filled) >= hull.loss:
        return hull
    return Solution(
        choices=tuple(filled), loss=loss(filled), cost=cost(filled), multiplier=hull.multiplier, bound=hull.bound
    )


class _Curves:
    """Least losses over units spent, for every step of an elimination."""

    def __init__(
        self, elimination: Elimination, loss: Additive, cost: Additive, budget: float, hull: Solution, units: int
    ) -> None:
        self.elimination, self.units = elimination, units
        self.losses, costs = elimination.tables(loss), elimination.tables(cost)
        lagrangian = [a + hull.multiplier * b for a, b in zip(self.losses, costs, strict=True)]
        spread = hull.loss - hull.bound + 1e-9 * max(abs(hull.loss), 1.0)
        self.hopeful = [excess <= spread for excess in elimination.excesses(lagrangian)]
        spare = budget - sum(table.min() for table in costs)
        unit = spare / units
        # A share of a unit that only the arithmetic made is none.
        self.spent: list[Integers] = [
            np.ceil((table - table.min()) / unit - 1e-9).astype(np.int64)
            if unit > 0
            else np.where(table > table.min(), units + 1, 0)
            for table in costs
        ]
        self.joined: list[Floats] = []
        self.curves: list[Floats] = []
        if spare >= 0:
            for place, step in enumerate(elimination.steps):
                self.joined.append(self._join(step))
                self.curves.append(self._reduce(place))

    def best(self) -> tuple[int, ...] | None:
        """The choices of least loss, or None if the rounding leaves none."""
        steps = self.elimination.steps
        if not self.curves:
            return None
        roots = [place for place, step in enumerate(steps) if not step.scope]
        shares = _shares([self.curves[place] for place in roots], self.units)
        if shares is None:
            return None
        left = dict(zip(roots, shares, strict=True))
        chosen: dict[int, int] = {}
        for place in reversed(range(len(steps))):
            step = steps[place]
            scope = tuple(chosen[variable] for variable in step.scope)
            rest = left[place] - self.spent[place][scope]
            curves = np.broadcast_to(self.joined[place], (*self.losses[place].shape, self.units + 1))[scope]
            values = [
                curves[i, r] + own if r >= 0 else np.inf
                for i, (r, own) in enumerate(zip(rest, self.losses[place][scope], strict=True))
            ]
            choice = int(np.argmin(values))
            chosen[step.variable] = choice
            sources = [source for source, _, _ in step.messages]
            parts = [self.curves[source][tuple(chosen[v] for v in steps[source].scope)] for source in sources]
            left.update(zip(sources, _shares(parts, int(rest[choice])) or [], strict=True))
        return tuple(chosen[variable] for variable in range(len(self.elimination.sizes)))

    def _join(self, step: Step) -> Floats:
        """The messages of a step as one curve for each of its entries, axes of length 1 where it does not depend."""
        joined: Floats | None = None
        for source, order, shape in step.messages:
            curve = self.curves[source].transpose(*order, len(order)).reshape(*shape, -1)
            joined = curve if joined is None else _convolve(joined, curve)
        return np.zeros((*(1 for _ in step.scope), 1, self.units + 1)) if joined is None else joined

    def _reduce(self, place: int) -> Floats:
        """The least loss over the variable of a step, shape ``(*scope, units + 1)``."""
        losses, end = self.losses[place], self.units + 1
        rows, joined = losses[..., 0].size, self.joined[place]
        if joined[..., 0, 0].size == 1:  # one curve for all of the scope: not to be repeated in memory
            joined = joined.reshape(1, -1, end)
        else:
            joined = np.broadcast_to(joined, (*losses.shape, end)).reshape(rows, -1, end)
        sources = [list(np.broadcast_to(each, (losses.shape[-1], end))) for each in joined]
        curves = np.full((rows, end), np.inf)
        spent = np.where(self.hopeful[place], self.spent[place], end).reshape(rows, -1).tolist()
        own, sums = losses.reshape(rows, -1).tolist(), np.empty(end)
        for row, curve in enumerate(curves):
            for before, loss, units in zip(sources[row % len(sources)], own[row], spent[row], strict=True):
                if units < end:
                    found = sums[units:]
                    np.add(before[: end - units], loss, out=found)
                    np.minimum(curve[units:], found, out=curve[units:])
        return curves.reshape(*losses.shape[:-1], end)


def _convolve(one: Floats, other: Floats) -> Floats:
    """Min-plus convolution along the last axis of two arrays that broadcast against each other."""
    shape = np.broadcast_shapes(one.shape, other.shape)
    result = np.full(shape, np.inf)
    end = shape[-1]
    for units in range(end):
        part = result[..., units:]
        np.minimum(part, one[..., units, None] + other[..., : end - units], out=part)
    return result


def _shares(curves: Sequence[Floats], units: int) -> list[int] | None:
    """How many of ``units`` each of several curves gets so that their sum is least; None if it is infinite."""
    if not curves:
        return []
    sums = [curves[0]]
    for curve in curves[1:]:
        sums.append(_convolve(sums[-1], curve))
    if not np.isfinite(sums[-1][units]):
        return None
    shares: list[int] = []
    for curve, before in zip(reversed(curves[1:]), reversed(sums[:-1]), strict=True):
        share = int(np.argmin(curve[: units + 1] + before[: units + 1][::-1]))
        shares.append(share)
        units -= share
    return [units, *reversed(shares)]


def _spend(loss: Additive, cost: Additive, budget: float, choices: list[int]) -> tuple[int, ...]:
    """Choices changed one by one, as long as one lowers the loss within the budget."""
    best = loss(choices)
    improved = True
    while improved:
        improved = False
        for place, size in enumerate(loss.sizes):
            for choice in range(size):
                other = [*choices[:place], choice, *choices[place + 1 :]]
                if cost(other) <= budget and loss(other) < best:
                    choices, best, improved = other, loss(other), True
    return tuple(choices)
