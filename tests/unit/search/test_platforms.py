"""The paper's platforms from their definitions."""

import math
from collections import Counter

import numpy as np
import pytest

from slimmable.core.space import make_divisible
from slimmable.errors import SearchError
from slimmable.search import (
    TARGET_MACS,
    TARGET_RATIOS,
    WEIGHTINGS,
    ChineseRestaurant,
    Platform,
    weighted_average,
    weights_of,
)


def test_weightings_follow_from_their_definitions():
    small, large = (62, 26, 9, 2, 1), (85, 8, 4, 2, 1)
    assert WEIGHTINGS["S"] == pytest.approx(weights_of(small))
    assert WEIGHTINGS["L"] == pytest.approx(weights_of(large))
    assert WEIGHTINGS["RS"] == pytest.approx(weights_of(small, peak="cheapest"))
    assert WEIGHTINGS["RL"] == pytest.approx(weights_of(large, peak="cheapest"))
    assert WEIGHTINGS["RS"] == WEIGHTINGS["S"][::-1]
    assert WEIGHTINGS["RL"] == WEIGHTINGS["L"][::-1]
    assert WEIGHTINGS["U"] == pytest.approx(weights_of([20] * 5))
    assert WEIGHTINGS["M"] == WEIGHTINGS["M"][::-1]
    assert max(WEIGHTINGS["M"]) == WEIGHTINGS["M"][3] == 0.325


def test_every_weighting_sums_to_1_with_a_quarter_at_each_end():
    assert list(WEIGHTINGS) == ["S", "RS", "U", "M", "L", "RL"]
    for weights in WEIGHTINGS.values():
        assert sum(weights) == pytest.approx(1)
        assert len(weights) == len(TARGET_RATIOS) == len(TARGET_MACS)
        assert weights[0] == weights[-1] == 0.25


def test_targets_are_the_multiply_accumulates_of_mobilenet_v1_and_those_that_the_paper_prints():
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for ratio, expected in zip(TARGET_RATIOS, TARGET_MACS, strict=True):
        side, before = 32, make_divisible(32 * ratio, 8)
        macs = 3 * 9 * before * side**2
        for channels, stride in blocks:
            side //= stride
            kept = make_divisible(channels * ratio, 8)
            macs += (9 * before + before * kept) * side**2
            before = kept
        assert macs + 100 * before == expected
    assert [round(macs / 1e6, 2) for macs in TARGET_MACS] == [3.35, 7.34, 12.21, 19.02, 26.58, 36.2, 46.45]


def partitions(total: int, parts: int, most: int) -> list[tuple[int, ...]]:
    """Sizes that fall, of ``parts`` tables with ``total`` customers."""
    if parts == 1:
        return [(total,)] if total <= most else []
    return [
        (first, *rest)
        for first in range(math.ceil(total / parts), min(most, total - parts + 1) + 1)
        for rest in partitions(total - first, parts - 1, first)
    ]


@pytest.mark.parametrize(
    ("sizes", "discount", "least"), [((62, 26, 9, 2, 1), 0.3, 0.2), ((85, 8, 4, 2, 1), 0.15, 0.2)], ids=["S", "L"]
)
def test_weightings_are_plausible_draws_of_their_restaurants_at_five_tables(sizes, discount, least):
    """At least a fifth of all draws at five tables have sizes that are no more probable than those of the paper."""
    restaurant = ChineseRestaurant(discount=discount, strength=0.15)

    def probability(found: tuple[int, ...]) -> float:
        ways = math.lgamma(101) - sum(math.lgamma(size + 1) for size in found)
        alike = sum(math.lgamma(count + 1) for count in Counter(found).values())
        return math.exp(restaurant.log_probability(found) + ways - alike)

    every = np.array([probability(found) for found in partitions(100, 5, 100)])
    assert 0.02 < every.sum() < 0.3
    assert every[every <= probability(sizes) * (1 + 1e-9)].sum() / every.sum() > least


def test_weighted_average_is_that_of_as_many_equal_values():
    assert weighted_average([1.0, 2.0, 5.0], [2, 1, 1]) == pytest.approx(np.mean([1, 1, 2, 5]))
    for weights in WEIGHTINGS.values():
        assert weighted_average([3.5] * 7, weights) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights_of([]), "at least one customer"),
        (lambda: weights_of([3, 0]), "at least one customer"),
        (lambda: weights_of([3, 1], peak="middle"), "peak='middle'; expected 'dearest' or 'cheapest'"),
        (lambda: weights_of([3, 1], ends=0.5), "ends=0.5"),
        (lambda: weighted_average([1], [1, 2]), "1 values and 2 weights"),
        (lambda: weighted_average([1, 2], [1, -1]), "weights of 0 or more"),
        (lambda: weighted_average([], []), "weights of 0 or more"),
        (lambda: weighted_average([math.nan], [1]), "finite values"),
        (lambda: Platform(name="", budget=1, importance=1, sampling=1), "no name"),
        (lambda: Platform(name="a", budget=0, importance=1, sampling=1), "a budget of 0"),
        (lambda: Platform(name="a", budget=1, importance=-1, sampling=1), "the importance -1"),
        (lambda: Platform(name="a", budget=1, importance=1, sampling=1.5), "the sampling 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(SearchError, match=message):
        call()
