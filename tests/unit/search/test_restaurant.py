"""The Chinese restaurant process against enumeration of all partitions and against its textbook formulas."""

import math
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search import ChineseRestaurant

RESTAURANTS = [(0.3, 0.15), (0.0, 1.0), (0.15, 0.15), (0.7, -0.5), (0.9, 20.0), (-0.5, 1.5), (-2.0, 4.0)]


def restaurant(discount: float, strength: float) -> ChineseRestaurant:
    return ChineseRestaurant(discount=discount, strength=strength)


def set_partitions(count: int) -> Iterator[list[list[int]]]:
    if count == 0:
        yield []
        return
    for partition in set_partitions(count - 1):
        yield [*partition, [count]]
        for place in range(len(partition)):
            yield [*partition[:place], [*partition[place], count], *partition[place + 1 :]]


def seated(found: ChineseRestaurant, partition: list[list[int]]) -> float:
    """The probability of a seating, customer by customer, as the process is told."""
    probability, tables = 1.0, {}
    for customer in range(1, sum(map(len, partition)) + 1):
        table = next(place for place, members in enumerate(partition) if customer in members)
        arrived, taken = customer - 1, tables.get(table, 0)
        if arrived:
            share = taken - found.discount if taken else found.strength + len(tables) * found.discount
            probability *= share / (arrived + found.strength)
        tables[table] = taken + 1
    return probability


@pytest.mark.parametrize(("discount", "strength"), RESTAURANTS)
def test_probabilities_of_all_partitions_are_those_of_the_seating_and_sum_to_1(discount, strength):
    found = restaurant(discount, strength)
    total = 0.0
    for partition in set_partitions(7):
        probability = math.exp(found.log_probability([len(members) for members in partition]))
        assert probability == pytest.approx(seated(found, partition), abs=1e-12)
        total += probability
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(("discount", "strength"), RESTAURANTS)
def test_draws_have_the_probabilities_of_all_partitions(discount, strength):
    found, generator, draws = restaurant(discount, strength), np.random.default_rng(0), 4000
    expected: Counter[tuple[int, ...]] = Counter()
    for partition in set_partitions(6):  # tables in the order in which they were opened
        sizes = tuple(len(members) for members in sorted(partition))
        expected[sizes] += math.exp(found.log_probability(sizes)) * draws
    counts = Counter(found.draw(6, generator) for _ in range(draws))
    assert set(counts) <= {sizes for sizes, count in expected.items() if count > 0}
    assert same_distribution(counts, expected)


def same_distribution(counts: Counter, expected: Counter) -> bool:
    """Pearson's test at one in a thousand; cells with fewer than 5 expected draws are one."""
    large = [key for key, count in expected.items() if count >= 5]
    rest = sum(expected.values()) - sum(expected[key] for key in large)
    observed, wanted = [counts[key] for key in large], [expected[key] for key in large]
    if rest >= 5:
        observed, wanted = [*observed, sum(counts.values()) - sum(observed)], [*wanted, rest]
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    return len(wanted) > 1 and stats.chi2.sf(statistic, len(wanted) - 1) > 1e-3


@pytest.mark.parametrize(("discount", "strength"), [(0.3, 0.15), (0.0, 1.0), (0.7, -0.5), (-0.5, 2.5)])
def test_conditioning_on_the_tables_equals_throwing_draws_away(discount, strength):
    found, generator = restaurant(discount, strength), np.random.default_rng(1)
    kept = [sizes for sizes in (found.draw(9, generator) for _ in range(6000)) if len(sizes) == 3]
    drawn = [found.draw_with_tables(9, 3, generator) for _ in range(2000)]
    rejected, exact = Counter(kept), Counter(drawn)
    cells = [key for key in rejected | exact if rejected[key] + exact[key] >= 10]
    table = [[counter[key] for key in cells] for counter in (rejected, exact)]
    assert len(kept) > 500
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert all(len(sizes) == 3 and sum(sizes) == 9 for sizes in drawn)


@pytest.mark.parametrize(("discount", "strength"), RESTAURANTS[:5])
def test_given_the_tables_the_strength_says_nothing(discount, strength):
    found, other = restaurant(discount, strength), restaurant(discount, strength + 3)
    for seed in range(5):
        draws = [r.draw_with_tables(200, 12, np.random.default_rng(seed)) for r in (found, other)]
        assert draws[0] == draws[1]
        ratios = [r.log_probability(draws[0]) - r.log_probability([189, *[1] * 11]) for r in (found, other)]
        assert ratios[0] == pytest.approx(ratios[1], abs=1e-9)


def test_extreme_numbers_of_tables_are_drawn_too():
    found, generator = restaurant(0.3, 0.15), np.random.default_rng(0)
    assert found.draw_with_tables(400, 400, generator) == (1,) * 400
    assert found.draw_with_tables(400, 1, generator) == (400,)
    assert sum(found.draw_with_tables(1000, 900, generator)) == 1000
    assert found.draw(1, generator) == (1,)
    assert max(len(restaurant(-0.5, 1.5).draw(500, generator)) for _ in range(20)) == 3


@pytest.mark.parametrize(("discount", "strength"), RESTAURANTS)
@pytest.mark.parametrize("customers", [1, 2, 100])
def test_expected_tables_are_those_of_the_closed_form(discount, strength, customers):
    if discount:
        # (theta / alpha) ((theta + alpha)_n / (theta)_n - 1), written so that a strength below 0 does no harm
        grown = gammaln(strength + discount + customers) - gammaln(strength + 1 + discount)
        shrunk = gammaln(strength + customers) - gammaln(strength + 1)
        expected = ((strength + discount) * np.exp(grown - shrunk) - strength) / discount
    else:
        expected = sum(strength / (strength + i) for i in range(customers))
    assert restaurant(discount, strength).expected_tables(customers) == pytest.approx(expected)


def test_mean_number_of_tables_drawn_is_the_expected_one():
    found, generator = restaurant(0.5, 1.0), np.random.default_rng(0)
    drawn = [len(found.draw(100, generator)) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(found.expected_tables(100), abs=4 * np.std(drawn) / 2000**0.5)


def test_the_same_seed_draws_the_same():
    found = restaurant(0.3, 0.15)
    draws = [[found.draw(100, g) for _ in range(5)] for g in (np.random.default_rng(7), np.random.default_rng(7))]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


@pytest.mark.parametrize("discount", [0.0, 0.2, 0.5, 0.8])
def test_fit_recovers_the_discount_to_005_from_many_customers(discount):
    """Ten divisions of 2000 customers: the mean of the fits lies within 0.05, each is at least as probable as truth."""
    truth, found = restaurant(discount, 5.0), []
    for seed in range(10):
        sizes = truth.draw(2000, np.random.default_rng(seed))
        fitted = ChineseRestaurant.fit(sizes)
        found.append(fitted)
        assert fitted.log_probability(sizes) >= truth.log_probability(sizes) - 1e-6
    assert np.mean([fitted.discount for fitted in found]) == pytest.approx(discount, abs=0.05)


def test_no_restaurant_on_a_grid_is_more_probable_than_the_fitted_one():
    for sizes in [(62, 26, 9, 2, 1), (2, 1), (40, 1, 1, 1, 1, 1), (50, 50), (1, 1, 1, 2)]:
        best = ChineseRestaurant.fit(sizes).log_probability(sizes)
        grid = [(d, s - d) for d in np.linspace(0, 0.99, 30) for s in np.geomspace(1e-4, 1e4, 30)]
        assert best >= max(restaurant(d, s).log_probability(sizes) for d, s in grid) - 1e-9


def test_shares_are_fitted_as_the_customers_they_stand_for():
    sizes = (62, 26, 9, 2, 1)
    shares = [size / 200 for size in sizes]
    assert ChineseRestaurant.fit(shares, customers=100) == ChineseRestaurant.fit(sizes)
    thirds = ChineseRestaurant.fit([1, 1, 1], customers=100)
    assert thirds == ChineseRestaurant.fit([34, 33, 33])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: restaurant(1.0, 0.0), "a discount below 1"),
        (lambda: restaurant(0.3, -0.3), "expected a strength above -0.3"),
        (lambda: restaurant(0.0, 0.0), "expected a strength above"),
        (lambda: restaurant(-0.5, 1.2), "-L \\* discount, L a whole number: 1 allows 2 tables"),
        (lambda: restaurant(-0.5, -1.0), "L a whole number"),
        (lambda: restaurant(math.nan, 0.0), "finite numbers"),
        (lambda: restaurant(0.3, 1).draw(0, np.random.default_rng()), "at least 1 customer"),
        (
            lambda: restaurant(0.3, 1).draw_with_tables(3, 4, np.random.default_rng()),
            "cannot sit at 4 tables; .* 1 to 3",
        ),
        (lambda: restaurant(-1, 2).draw_with_tables(9, 3, np.random.default_rng()), "expected 1 to 2"),
        (lambda: restaurant(0.3, 1).log_probability([]), "at each table"),
        (lambda: restaurant(0.3, 1).log_probability([2, 0]), "at each table"),
        (lambda: ChineseRestaurant.fit([0.5, math.nan]), "whole number of customers"),
        (lambda: ChineseRestaurant.fit([5]), "two or more"),
        (lambda: ChineseRestaurant.fit([1, 1, 1]), "two or more"),
        (lambda: ChineseRestaurant.fit([1, -1], customers=10), "positive shares"),
        (lambda: ChineseRestaurant.fit([1, 1e-6], customers=10), "has none of 10 customers; give more"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(SearchError, match=message):
        call()


def test_more_tables_than_there_can_be_have_no_probability():
    assert restaurant(-1.0, 2.0).log_probability([1, 1, 1]) == -math.inf


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError, match=r"slimmable\[search\]"):
        ChineseRestaurant.fit([2, 1])
