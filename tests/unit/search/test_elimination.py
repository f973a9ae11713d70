"""Elimination and budgets against enumeration of everything, on hundreds of small random graphs."""

from itertools import combinations, product

import numpy as np
import pytest

from slimmable.errors import SearchError
from slimmable.search import Additive, Elimination, within_budget

SHAPES = ("chain", "tree", "cycle", "residual", "any", "apart")


def pairs_of(shape: str, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    chain = [(i, i + 1) for i in range(count - 1)]
    if shape == "chain":
        return chain
    if shape == "tree":
        return [(int(generator.integers(i)), i) for i in range(1, count)]
    if shape == "cycle":
        return [*chain, (0, count - 1)]
    if shape == "residual":  # a stream that every second variable reads and writes
        return sorted({*chain, *((0, i) for i in range(2, count))})
    if shape == "apart":
        return chain[: count // 2 - 1] + chain[count // 2 :]
    return [pair for pair in combinations(range(count), 2) if generator.random() < 0.5]


def random_function(sizes: list[int], pairs: list[tuple[int, int]], generator: np.random.Generator) -> Additive:
    return Additive(
        unary=tuple(generator.normal(size=size) for size in sizes),
        pairs={(i, j): generator.normal(size=(sizes[i], sizes[j])) for i, j in pairs},
    )


def problem(seed: int, shape: str) -> tuple[Elimination, Additive, Additive]:
    """A graph, and two functions on it, the second of them positive."""
    generator = np.random.default_rng(seed)
    sizes = [int(size) for size in generator.integers(1, 5, size=int(generator.integers(2, 7)))]
    pairs = pairs_of(shape, len(sizes), generator)
    loss, cost = (random_function(sizes, pairs, generator) for _ in range(2))
    cost = Additive(unary=tuple(map(np.abs, cost.unary)), pairs={pair: np.abs(t) for pair, t in cost.pairs.items()})
    return Elimination(sizes, pairs), loss, cost


def everything(function: Additive) -> list[tuple[int, ...]]:
    return list(product(*map(range, function.sizes)))


@pytest.mark.parametrize("shape", SHAPES)
def test_minimum_is_that_of_enumeration(shape):
    for seed in range(60):
        elimination, function, _ = problem(seed, shape)
        value, choices = elimination.minimum(function)
        assert value == pytest.approx(min(map(function, everything(function))), abs=1e-12)
        assert function(choices) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_soft_minimum_and_marginals_are_those_of_enumeration(shape, temperature):
    for seed in range(20):
        elimination, function, _ = problem(seed, shape)
        every = everything(function)
        weights = np.exp([-function(choices) / temperature for choices in every])
        assert elimination.soft_minimum(function, temperature) == pytest.approx(
            -temperature * np.log(weights.sum()), abs=1e-10
        )
        for place, found in enumerate(elimination.marginals(function, temperature)):
            expected = np.zeros(function.sizes[place])
            np.add.at(expected, [choices[place] for choices in every], weights / weights.sum())
            np.testing.assert_allclose(found, expected, atol=1e-10)


def test_soft_minimum_tends_to_the_minimum_and_marginals_to_its_choices():
    elimination, function, _ = problem(3, "residual")
    value, choices = elimination.minimum(function)
    distances = [abs(elimination.soft_minimum(function, t) - value) for t in (1.0, 0.1, 0.01, 0.001)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3
    for found, choice in zip(elimination.marginals(function, 1e-4), choices, strict=True):
        assert found[choice] == pytest.approx(1.0)


def test_marginals_are_the_gradient_of_the_soft_minimum():
    elimination, function, _ = problem(5, "cycle")
    step = 1e-6
    for place, marginal in enumerate(elimination.marginals(function, 0.7)):
        for choice, probability in enumerate(marginal):
            moved = [table.copy() for table in function.unary]
            moved[place][choice] += step
            other = Additive(unary=tuple(moved), pairs=function.pairs)
            slope = (elimination.soft_minimum(other, 0.7) - elimination.soft_minimum(function, 0.7)) / step
            assert slope == pytest.approx(probability, abs=1e-5)


def test_samples_are_drawn_jointly():
    """Pairs of neighbours come as often as they should: four standard deviations of 20,000 draws."""
    elimination, function, _ = problem(7, "chain")
    generator = np.random.default_rng(0)
    every = everything(function)
    weights = np.exp([-function(choices) for choices in every])
    probabilities = dict(zip(every, weights / weights.sum(), strict=True))
    count = 20_000
    drawn = [elimination.sample(function, 1.0, generator) for _ in range(count)]
    for choices, p in probabilities.items():
        assert abs(drawn.count(choices) / count - p) < 4 * np.sqrt(p * (1 - p) / count) + 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_solutions_within_a_budget_are_the_best_of_the_hull(shape):
    """The dual solved by enumeration: the maximum over the multipliers at which two points tie."""
    tried = 0
    for seed in range(40):
        elimination, loss, cost = problem(seed, shape)
        every = everything(loss)
        if len(every) > 120:
            continue
        tried += 1
        values, prices = (np.array([function(choices) for choices in every]) for function in (loss, cost))
        budget = float(prices.min() + 0.4 * np.ptp(prices))
        solution = within_budget(elimination, loss, cost, budget)
        rises = prices[None, :] - prices[:, None]
        falls = values[:, None] - values[None, :]
        gammas = np.append((falls[rises > 0] / rises[rises > 0]).clip(0), 0.0)
        dual = ((values[None, :] + gammas[:, None] * prices[None, :]).min(1) - gammas * budget).max()
        assert solution.cost <= budget
        assert solution.bound == pytest.approx(dual, abs=1e-9)
        assert solution.bound - 1e-9 <= values[prices <= budget].min() <= solution.loss + 1e-12
        assert (loss(solution.choices), cost(solution.choices)) == pytest.approx((solution.loss, solution.cost))
    assert tried > 10


def test_a_budget_below_the_least_cost_is_answered_with_that_cost():
    elimination, loss, cost = problem(1, "tree")
    least = elimination.minimum(cost)[0]
    with pytest.raises(SearchError, match=f"the least cost is {least:g}; raise the budget"):
        within_budget(elimination, loss, cost, 0.5 * least)


def test_what_does_not_fit_is_named():
    unary = (np.zeros(2), np.zeros(3))
    with pytest.raises(SearchError, match=r"shape \(3, 2\), expected \(2, 3\)"):
        Additive(unary=unary, pairs={(0, 1): np.zeros((3, 2))})
    with pytest.raises(SearchError, match="places i < j below 2"):
        Additive(unary=unary, pairs={(1, 0): np.zeros((3, 2))})
    function = Additive(unary=unary, pairs={(0, 1): np.zeros((2, 3))})
    with pytest.raises(SearchError, match="a term of places"):
        Elimination((2, 3), []).minimum(function)
    with pytest.raises(SearchError, match="have choices of"):
        function.plus(Additive(unary=unary[:1], pairs={}), 1.0)
    with pytest.raises(SearchError, match="a temperature above 0"):
        Elimination((2, 3), [(0, 1)]).marginals(function, 0.0)
    with pytest.raises(SearchError, match="a table over 9 variables"):
        Elimination([10] * 9, list(combinations(range(9), 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_excesses_are_those_of_enumeration(shape):
    for seed in range(20):
        elimination, function, _ = problem(seed, shape)
        every = [(choices, function(choices)) for choices in everything(function)]
        least = min(value for _, value in every)
        for step, found in zip(elimination.steps, elimination.excesses(elimination.tables(function)), strict=True):
            expected = np.full(found.shape, np.inf)
            for choices, value in every:
                entry = tuple(choices[variable] for variable in (*step.scope, step.variable))
                expected[entry] = min(expected[entry], value - least)
            np.testing.assert_allclose(found, expected, atol=1e-10)
