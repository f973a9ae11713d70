"""Fronts against comparison of all pairs, volumes against inclusion and exclusion, areas against sums."""

import json
import sys
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from slimmable.core.space import Widths
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search import Front, Point, area_under_curve, hypervolume, non_dominated, unevenness


def dominated_by_none(rows: np.ndarray) -> list[int]:
    """Definition 1 of PareCO, pair by pair."""

    def dominates(y, x):
        return all(a <= b for a, b in zip(y, x, strict=True)) and any(a < b for a, b in zip(y, x, strict=True))

    front = [i for i, x in enumerate(rows) if not any(dominates(y, x) for y in rows)]
    return [i for i in front if not any((rows[i] == rows[j]).all() for j in front if j < i)]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_front_is_that_of_all_pairs_with_ties_and_duplicates(objectives):
    for seed in range(25):
        rows = np.random.default_rng(seed).integers(0, 6, size=(40, objectives)).astype(float)
        assert list(non_dominated(rows)) == dominated_by_none(rows)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_is_that_of_inclusion_and_exclusion(objectives):
    for seed in range(10):
        rows = np.random.default_rng(seed).random((7, objectives)) * 1.3  # some beyond the reference
        reference = np.ones(objectives)
        expected = sum(
            (-1) ** (count + 1) * np.prod(np.clip(reference - np.max(chosen, axis=0), 0, None))
            for count in range(1, 8)
            for chosen in combinations(rows, count)
        )
        assert hypervolume(rows, reference) == pytest.approx(expected, abs=1e-12)
        assert hypervolume(rows[list(non_dominated(rows))], reference) == pytest.approx(expected, abs=1e-12)


def test_hypervolume_of_points_beyond_the_reference_is_none():
    assert hypervolume([[2.0, 0.0], [1.0, 1.0]], [1.0, 1.0]) == 0


@pytest.mark.parametrize("best", ["least", "most"])
def test_area_is_the_mean_over_budgets_of_the_best_value_afforded(best):
    for seed in range(10):
        generator = np.random.default_rng(seed)
        costs, values = generator.integers(0, 50, size=12) / 10, generator.random(12)
        between = (float(costs.min()), float(costs.min()) + 6.0)
        budgets = between[0] + 6.0 * (np.arange(6000) + 0.5) / 6000  # costs are whole multiples of a step
        of_best = min if best == "least" else max
        afforded = [of_best(v for c, v in zip(costs, values, strict=True) if c <= budget) for budget in budgets]
        assert area_under_curve(costs.tolist(), values.tolist(), between=between, best=best) == pytest.approx(
            np.mean(afforded), abs=1e-9
        )


def test_area_of_part_of_the_curve_adds_up_to_the_whole():
    costs, values = [1.0, 2.5, 4.0, 7.0], [0.9, 0.5, 0.6, 0.1]
    parts = [(1.0, 3.0), (3.0, 3.5), (3.5, 9.0)]
    summed = sum((high - low) * area_under_curve(costs, values, between=(low, high)) for low, high in parts)
    assert summed / 8 == pytest.approx(area_under_curve(costs, values, between=(1.0, 9.0)))


def test_unevenness_is_kolmogorovs_distance_to_uniform():
    for seed in range(20):
        costs = np.random.default_rng(seed).random(30) ** 2 * 8 + 2
        expected = stats.kstest(costs, stats.uniform(2, 8).cdf).statistic
        assert unevenness(costs.tolist(), between=(2, 10)) == pytest.approx(expected, abs=1e-12)


def test_equal_parts_are_the_most_even():
    generator = np.random.default_rng(0)
    middles = [(place + 0.5) / 9 for place in range(9)]
    assert unevenness(middles, between=(0, 1)) == pytest.approx(1 / 18)
    assert all(unevenness(generator.random(9).tolist(), between=(0, 1)) > 1 / 18 for _ in range(50))
    assert unevenness([5.0, -3.0], between=(0, 1)) == unevenness([1.0, 0.0], between=(0, 1)) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: non_dominated([]), "one row per point"),
        (lambda: non_dominated([[1.0, np.nan]]), "finite"),
        (lambda: hypervolume([[1.0, 1.0]], [1.0]), "the reference has 1 objectives, the points have 2"),
        (lambda: area_under_curve([1, 2], [1], between=(1, 2)), "2 costs and 1 values"),
        (lambda: area_under_curve([2], [1], between=(1, 3)), "nothing costs at most 1: the cheapest point costs 2"),
        (lambda: area_under_curve([2], [1], between=(3, 3)), "from a lower to a higher"),
        (lambda: unevenness([], between=(0, 1)), "one row per point"),
    ],
)
def test_input_that_makes_no_sense_is_refused(call, message):
    with pytest.raises(SearchError, match=message):
        call()


def point(kept: int, macs: float, ms: float, loss: float, **figures: float) -> Point:
    return Point(widths=Widths.of({"a": kept}), costs={"macs": macs, "ms": ms}, loss=loss, figures=figures)


def random_points(seed: int, count: int = 40) -> list[Point]:
    table = np.random.default_rng(seed).integers(1, 12, size=(count, 3)).tolist()
    return [point(kept, *map(float, row)) for kept, row in enumerate(table)]


def test_front_does_not_depend_on_the_order_of_points_and_is_sorted_by_cost():
    for seed in range(10):
        points = random_points(seed)
        front = Front(points)
        assert [tuple(row) for row in Front(points[::-1]).values] == [tuple(row) for row in front.values]
        assert [p.costs["macs"] for p in front] == sorted(p.costs["macs"] for p in front)
        assert Front(front) == front
        assert len(front) == len(dominated_by_none(np.array([(*p.costs.values(), p.loss) for p in points])))


def test_best_within_a_budget_is_the_best_of_all_points_within_it():
    for seed in range(10):
        points = random_points(seed)
        front = Front(points)
        for most in range(int(front.values[:, 0].min()), 13):
            assert front.best(most).loss == min(p.loss for p in points if p.costs["macs"] <= most)
            both = [p.loss for p in points if p.costs["macs"] <= most and p.costs["ms"] <= 6]
            if both:
                assert front.best({"macs": most, "ms": 6}).loss == min(both)


def test_front_passes_through_json_unchanged():
    front = Front([point(8, 80.0, 2.0, 0.3, accuracy=0.9), point(4, 40.0, 1.0, 0.5)])
    assert Front.from_json(json.loads(json.dumps(front.to_json()))) == front


def test_front_says_what_is_wrong():
    front = Front([point(8, 80.0, 2.0, 0.3), point(4, 40.0, 1.0, 0.5)])
    with pytest.raises(SearchError, match="no point of the front is within macs 30; its least costs are macs 40"):
        front.best(30)
    with pytest.raises(SearchError, match="no cost 'joules'; it has macs, ms"):
        front.best({"joules": 1})
    with pytest.raises(SearchError, match="none were given"):
        Front([])
    with pytest.raises(SearchError, match="expected the same for all"):
        Front([*front, Point(widths=Widths.of({"a": 1}), costs={"macs": 1}, loss=1)])
    with pytest.raises(SearchError, match="loss = nan"):
        point(1, 1, 1, float("nan"))
    with pytest.raises(SearchError, match="no cost"):
        Point(widths=Widths.of({"a": 1}), costs={}, loss=1)


@pytest.mark.parametrize("module", ["pymoo.util.nds.non_dominated_sorting", "pymoo.indicators.hv"])
def test_a_missing_package_is_named_with_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"slimmable\[search\]"):
        hypervolume([non_dominated([[1.0]])], [2.0])
