"""The least loss within a budget, of additive losses and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from slimmable.errors import SearchError
from slimmable.search.additive import Additive
from slimmable.search.elimination import Elimination


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Choices within a budget.

    Attributes:
        choices: An alternative for each choice.
        loss: Their loss.
        cost: Their cost, at most the budget.
        multiplier: Weight of the cost in the sum that they minimise.
        bound: No choices within the budget have a smaller loss than this.
    """

    choices: tuple[int, ...]
    loss: float
    cost: float
    multiplier: float
    bound: float


def within_budget(elimination: Elimination, loss: Additive, cost: Additive, budget: float) -> Solution:
    r"""The best choices on the convex hull of losses and costs that keep to a budget.

    Minimising :math:`L(x) + \gamma R(x)` gives points of the hull. From two of them, one too expensive and one within
    the budget, the slope of the line between them gives the next :math:`\gamma`, until no point lies below the line:
    the dual :math:`\max_\gamma \min_x L(x) + \gamma (R(x) - B)` is then solved exactly.

    Args:
        elimination: Of a graph that holds the terms of both functions.
        loss: What is minimised.
        cost: What is bounded.
        budget: Most that ``cost`` may be.

    Returns:
        A solution whose loss lies above the least possible one by at most ``loss - bound``.

    Raises:
        SearchError: No choices keep to the budget; the message states the least cost.

    References:
        Optimizing Slimmable Networks for Multiple Target Platforms, Eq. 4.
    """
    losses, costs = elimination.tables(loss), elimination.tables(cost)
    _, cheapest = elimination.minimum_of(costs)
    least = cost(cheapest)
    if least > budget:
        raise SearchError(f"no widths cost at most {budget:g}: the least cost is {least:g}; raise the budget")
    bound, best = elimination.minimum_of(losses)
    dear, kept, weight = _point(loss, cost, best), _point(loss, cost, cheapest), 0.0
    if dear.cost <= budget:
        return Solution(choices=best, loss=dear.loss, cost=dear.cost, multiplier=0.0, bound=bound)
    while True:
        gamma = max((kept.loss - dear.loss) / (dear.cost - kept.cost), 0.0)
        value, choices = elimination.minimum_of([a + gamma * b for a, b in zip(losses, costs, strict=True)])
        if value - gamma * budget > bound:
            bound, weight = value - gamma * budget, gamma
        line = kept.loss + gamma * kept.cost
        if value >= line - 1e-12 * max(abs(line), 1.0) or choices in (dear.choices, kept.choices):
            return Solution(choices=kept.choices, loss=kept.loss, cost=kept.cost, multiplier=weight, bound=bound)
        found = _point(loss, cost, choices)
        if found.cost <= budget:
            kept = found
        else:
            dear = found


class _Point(NamedTuple):
    """Choices with their loss and cost."""

    choices: tuple[int, ...]
    loss: float
    cost: float


def _point(loss: Additive, cost: Additive, choices: tuple[int, ...]) -> _Point:
    return _Point(choices, loss(choices), cost(choices))
