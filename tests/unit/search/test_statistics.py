"""Statistics of choices recover additive losses; evening out is the least-squares fit."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest

from slimmable.errors import CheckpointError, SearchError
from slimmable.search import Additive
from slimmable.search.statistics import ChoiceLosses, falling

SIZES = (3, 5, 2)


def test_means_differ_as_the_terms_of_an_additive_loss_do():
    generator, numbers = random.Random(0), np.random.default_rng(0)
    terms = [numbers.normal(size=size) for size in SIZES]
    losses = ChoiceLosses(SIZES, window=10**6)
    for _ in range(30_000):
        choices = [generator.randrange(size) for size in SIZES]
        losses.add(choices, sum(term[choice] for term, choice in zip(terms, choices, strict=True)))
    for found, term in zip(losses.unary().unary, terms, strict=True):
        np.testing.assert_allclose(len(SIZES) * (found - found[0]), term - term[0], atol=0.1)


def test_only_the_window_counts_and_gaps_are_bridged():
    losses = ChoiceLosses([4], window=3)
    for loss in (100.0, 1.0, 2.0, 3.0):
        losses.add([0], loss)
    losses.add([3], 8.0)
    assert losses.counts == ((3, 0, 0, 1),)
    np.testing.assert_allclose(losses.unary().unary[0], [2.0, 4.0, 6.0, 8.0])


def test_a_stored_state_is_the_same_and_another_is_refused():
    losses = ChoiceLosses(SIZES, window=2)
    for choice in range(2):
        losses.add([choice] * 3, float(choice))
    other = ChoiceLosses(SIZES, window=2)
    other.load_state_dict(json.loads(json.dumps(losses.state_dict())))
    for mine, its in zip(losses.unary().unary, other.unary().unary, strict=True):
        np.testing.assert_array_equal(mine, its)
    with pytest.raises(CheckpointError, match="a window of 2"):
        ChoiceLosses(SIZES, window=3).load_state_dict(losses.state_dict())
    with pytest.raises(SearchError, match="no loss is known for any choice of width 0"):
        ChoiceLosses(SIZES, window=3).unary()
    with pytest.raises(SearchError, match="at least 1 loss"):
        ChoiceLosses(SIZES, window=0)


@pytest.mark.parametrize("seed", range(10))
def test_evened_terms_fall_and_no_other_falling_ones_are_nearer(seed):
    from sklearn.isotonic import IsotonicRegression

    values = np.random.default_rng(seed).normal(size=9)
    [found] = falling(Additive(unary=(values,), pairs={})).unary
    assert all(a >= b for a, b in pairwise(found))
    expected = IsotonicRegression(increasing=False).fit_transform(np.arange(9), values)
    np.testing.assert_allclose(found, expected, atol=1e-12)
