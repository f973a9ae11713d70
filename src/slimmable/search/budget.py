"""The least loss within a budget, of additive losses and costs."""

from __future__ import annotations

from dataclasses import dataclass

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
    _, cheapest = elimination.minimum(cost)
    least = cost(cheapest)
    if least > budget:
        raise SearchError(f"no widths cost at most {budget:g}: the least cost is {least:g}; raise the budget")
    value, best = elimination.minimum(loss)
    if cost(best) <= budget:
        return Solution(choices=best, loss=loss(best), cost=cost(best), multiplier=0.0, bound=value)
    dear, kept, bound, weight = best, cheapest, value, 0.0
    while True:
        fall, rise = loss(kept) - loss(dear), cost(dear) - cost(kept)
        gamma = max(fall / rise, 0.0)
        value, found = elimination.minimum(loss.plus(cost, gamma))
        if value - gamma * budget > bound:
            bound, weight = value - gamma * budget, gamma
        line = loss(kept) + gamma * cost(kept)
        if value >= line - 1e-12 * max(abs(line), 1.0) or found in (dear, kept):
            return Solution(choices=kept, loss=loss(kept), cost=cost(kept), multiplier=weight, bound=bound)
        if cost(found) <= budget:
            kept = found
        else:
            dear = found
