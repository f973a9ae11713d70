"""The filled budget against enumeration, on small random graphs whose costs are whole numbers of units."""

from itertools import product

import numpy as np
import pytest

from slimmable.errors import SearchError
from slimmable.search import Additive, Elimination, fill_budget, within_budget
from tests.unit.search.test_elimination import SHAPES, everything, problem


def whole(cost: Additive) -> Additive:
    """The cost in whole numbers."""
    pairs = {pair: np.ceil(3 * table) for pair, table in cost.pairs.items()}
    return Additive(unary=tuple(np.ceil(3 * table) for table in cost.unary), pairs=pairs)


@pytest.mark.parametrize("shape", SHAPES)
def test_solution_is_the_best_of_all_choices_where_no_cost_is_rounded(shape):
    for seed in range(25):
        elimination, loss, cost = problem(seed, shape)
        cost = whole(cost)
        every = everything(loss)
        costs = np.array([cost(choices) for choices in every])
        losses = np.array([loss(choices) for choices in every])
        for budget in np.unique(np.quantile(costs, [0.0, 0.2, 0.6, 1.0]).round()):
            if budget < costs.min():
                continue
            # One unit for each whole number between what any choice of every step costs and the budget.
            spare = budget - sum(table.min() for table in elimination.tables(cost))
            found = fill_budget(elimination, loss, cost, budget, units=max(int(spare), 1))
            assert found.cost == pytest.approx(cost(found.choices))
            assert found.cost <= budget
            assert found.loss == pytest.approx(losses[costs <= budget].min(), abs=1e-9)


@pytest.mark.parametrize("units", [1, 7, 100, 2000])
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_never_breaks_the_budget_nor_loses_to_the_hull(shape, units):
    for seed in range(5):
        elimination, loss, cost = problem(seed, shape)
        _, cheapest = elimination.minimum(cost)
        budget = cost(cheapest) * 1.7
        found, hull = (
            fill_budget(elimination, loss, cost, budget, units=units),
            within_budget(elimination, loss, cost, budget),
        )
        assert found.cost <= budget
        assert hull.bound - 1e-9 <= found.loss <= hull.loss


def test_a_budget_of_the_least_cost_is_met_and_one_below_it_named():
    elimination, loss, cost = problem(4, "residual")
    least = min(cost(choices) for choices in product(*map(range, cost.sizes)))
    assert fill_budget(elimination, loss, cost, least).cost == pytest.approx(least)
    with pytest.raises(SearchError, match=f"the least cost is {least:g}"):
        fill_budget(elimination, loss, cost, 0.9 * least)
    with pytest.raises(SearchError, match="at least 1 unit"):
        fill_budget(elimination, loss, cost, least, units=0)


def test_the_budget_is_filled_where_the_hull_leaves_a_gap():
    losses = [np.array([10.0, 9.0, 0.0])]
    costs = [np.array([0.0, 1.0, 10.0])]
    loss, cost = Additive(unary=tuple(losses), pairs={}), Additive(unary=tuple(costs), pairs={})
    elimination = Elimination(loss.sizes, ())
    assert within_budget(elimination, loss, cost, 9.0).choices == (0,)
    assert fill_budget(elimination, loss, cost, 9.0).choices == (1,)
