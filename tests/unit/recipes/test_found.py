"""Widths that a training found: part of a front, and the best of every platform."""

from itertools import product

import numpy as np
import pytest

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.cost.costs import NamedCost
from slimmable.errors import SearchError
from slimmable.recipes.found import for_platforms, found_widths, spread
from slimmable.recipes.methods import UsNet
from slimmable.search import Additive, Alternatives, Platform
from slimmable.train import Sandwich

CHANNELS = NamedCost(name="channels", unit="", of=lambda many: np.array([sum(each.channels) for each in many]))


@pytest.fixture
def space():
    groups = [WidthGroup(name=f"g{i}", base=40, minimum=8, maximum=40, divisor=8) for i in range(3)]
    return WidthSpace(tuple(groups), 0.2, 1.0)


def test_a_front_is_thinned_to_its_ends_and_what_lies_evenly_between(space):
    front = [space.widths([a, b, 40]) for a, b in ((8, 40), (8, 8), (40, 40), (8, 16), (8, 24), (16, 40))]
    costs = {widths: sum(widths.channels) for widths in front}

    found = spread(front, CHANNELS, most=3)

    assert [named.label for named in found] == ["front-0", "front-1", "front-2"]
    assert [costs[named.widths] for named in found] == [56, 88, 120]
    assert [costs[named.widths] for named in spread(front, CHANNELS, most=6)] == sorted(costs.values())
    assert spread([], CHANNELS, most=3) == []


def test_targets_with_one_nearest_width_give_it_once(space):
    front = [space.widths([8, 8, kept]) for kept in (8, 16)] + [space.largest]

    assert [sum(named.widths.channels) for named in spread(front, CHANNELS, most=2)] == [24, 120]


def additive_cost(alternatives):
    channels = [np.array(these, dtype=float) for these in alternatives.channels]
    return Additive(unary=tuple(channels), pairs={(i, i + 1): np.outer(*channels[i : i + 2]) for i in range(2)})


def platforms(*budgets):
    return [Platform(name=f"{b:g}", budget=b, importance=1.0, sampling=1.0) for b in budgets]


def test_each_platform_gets_the_best_of_all_widths_within_its_budget(space):
    """Slow: all of them are looked at."""
    alternatives = Alternatives.of(space)
    cost = additive_cost(alternatives)
    loss = Additive(unary=tuple(-factor * np.sqrt(np.arange(1.0, 6.0)) for factor in (3.0, 1.0, 2.0)), pairs={})
    every = list(product(*map(range, alternatives.sizes)))

    asked = platforms(300.0, 700.0, 2500.0, 1e9)
    for named, platform in zip(for_platforms(alternatives, loss, cost, asked), asked, strict=True):
        chosen = alternatives.choices(named.widths)
        assert named.label == platform.name
        assert cost(chosen) <= platform.budget
        best = min(loss(choices) for choices in every if cost(choices) <= platform.budget)
        assert loss(chosen) <= best + 1e-5 * 10


@pytest.mark.parametrize("losses", [(0.0, 0.25, 0.5, 0.75, 1.0), (3.0, 2.0, 1.0, 1.0, 1.0), (1.0,) * 5], ids=str)
def test_noise_that_punishes_width_is_not_followed_and_a_budget_is_used(space, losses):
    alternatives = Alternatives.of(space)
    loss = Additive(unary=(np.array(losses),) * 3, pairs={})

    [named] = for_platforms(alternatives, loss, additive_cost(alternatives), platforms(1e9))

    assert named.widths == space.largest


def test_a_budget_that_no_widths_keep_states_the_least_cost(space):
    alternatives = Alternatives.of(space)
    loss = Additive(unary=tuple(-np.arange(5.0) for _ in range(3)), pairs={})
    with pytest.raises(SearchError, match="no widths cost at most 100: the least cost is 152; raise the budget"):
        for_platforms(alternatives, loss, additive_cost(alternatives), platforms(500.0, 100.0))


def test_a_method_that_finds_nothing_leaves_no_file(space, tmp_path, opened):
    assert found_widths(UsNet(), Sandwich(space), opened.net, tmp_path) == []
    assert not list(tmp_path.iterdir())
