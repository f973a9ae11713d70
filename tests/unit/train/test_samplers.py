"""Samplers: which widths a step gets, and that the future depends on their state alone."""

import json
import math
from collections import Counter

import pytest

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.errors import CheckpointError, RecipeError, WidthError
from slimmable.train import DrawnSwitches, Fixed, Sandwich, SwitchList


@pytest.fixture
def space():
    groups = [WidthGroup(name=f"g{i}", base=160, minimum=40, maximum=160, divisor=8) for i in range(6)]
    return WidthSpace(tuple(groups), 0.25, 1.0)


def make(kind, space):
    switches = [space.uniform(ratio) for ratio in (0.25, 1.0, 0.5)]
    return {
        "fixed": lambda: Fixed(space.uniform(0.5)),
        "switches": lambda: SwitchList(switches),
        "uniform": lambda: Sandwich(space, n=5, seed=3),
        "nonuniform": lambda: Sandwich(space, n=5, mode="nonuniform", seed=3),
        "drawn": lambda: DrawnSwitches(several(space), weights=[1, 2, 3, 1, 1], n=4, seed=3),
    }[kind]()


def several(space):
    """Five switches, neither the widest nor the narrowest at an end of the list."""
    return [space.uniform(ratio) for ratio in (0.5, 1.0, 0.75, 0.25, 0.6)]


KINDS = ["fixed", "switches", "uniform", "nonuniform", "drawn"]


@pytest.mark.parametrize("kind", KINDS)
def test_widths_belong_to_the_space_and_come_widest_first(kind, space):
    sampler = make(kind, space)
    for step in range(30):
        widths_list = sampler.ask(step)
        sizes = [sum(widths.channels) for widths in widths_list]
        assert sizes == sorted(sizes, reverse=True)
        for widths in widths_list:
            space.check(widths)
            sampler.tell(widths, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fixed_belongs_to_every_step(kind, space):
    sampler = make(kind, space)
    assert sampler.fixed
    for step in range(10):
        assert set(sampler.fixed) <= set(sampler.ask(step))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_state_gives_the_same_future(kind, space):
    sampler = make(kind, space)
    for step in range(7):
        for widths in sampler.ask(step):
            sampler.tell(widths, 0.5)
    state = json.loads(json.dumps(sampler.state_dict()))

    other = make(kind, space)
    other.load_state_dict(state)

    assert [other.ask(step) for step in range(7, 20)] == [sampler.ask(step) for step in range(7, 20)]


def test_another_sampler_s_state_is_refused_by_its_first_difference(space):
    with pytest.raises(CheckpointError, match="seed=4, this one seed=5"):
        Sandwich(space, seed=5).load_state_dict(Sandwich(space, seed=4).state_dict())
    with pytest.raises(CheckpointError, match="sampler='fixed'"):
        Sandwich(space).load_state_dict(make("fixed", space).state_dict())


def test_a_sandwich_has_both_ends_and_random_widths_between(space):
    draws = [Sandwich(space, n=4).ask(step) for step in range(200)]
    assert {len(draw) for draw in draws} == {4}
    assert all(draw[0] == space.largest and draw[-1] == space.smallest for draw in draws)
    met = {draw[1]["g0"] for draw in draws} | {draw[2]["g0"] for draw in draws}
    assert met == set(space.groups[0].choices)


def test_uniform_draws_one_ratio_and_nonuniform_one_per_group(space):
    for step in range(20):
        assert all(len(set(widths.channels)) == 1 for widths in Sandwich(space, seed=1).ask(step))
    between = Sandwich(space, mode="nonuniform", seed=1).ask(0)[1:-1]
    assert all(len(set(widths.channels)) > 1 for widths in between)


def test_seeds_and_steps_draw_apart(space):
    def draws(seed):
        return [Sandwich(space, mode="nonuniform", seed=seed).ask(step)[1] for step in range(20)]

    assert len({*draws(0), *draws(1)}) == 40
    assert draws(0) == draws(0)


def test_switches_must_be_given_and_distinct(space):
    with pytest.raises(WidthError, match="empty"):
        SwitchList([])
    with pytest.raises(WidthError, match="3 switches hold 2 distinct"):
        SwitchList([space.largest, space.smallest, space.largest])


def test_a_sandwich_of_one_or_of_an_unknown_mode_is_refused(space):
    with pytest.raises(RecipeError, match="at least 2"):
        Sandwich(space, n=1)
    with pytest.raises(RecipeError, match="'uniform' or 'nonuniform'"):
        Sandwich(space, mode="non-uniform")


def test_drawn_switches_are_met_as_often_as_they_weigh(space):
    """One of three, weighing 1, 2 and 5, between both ends; what the ends weigh does not matter."""
    weights = (1, 90, 5, 0.01, 2)
    draws = [DrawnSwitches(several(space), weights=weights, seed=1).ask(step) for step in range(4000)]

    assert {(draw[0], draw[-1]) for draw in draws} == {(space.largest, space.smallest)}
    met = Counter(draw[1] for draw in draws)
    for ratio, weight in ((0.5, 1), (0.6, 2), (0.75, 5)):
        expected = 4000 * weight / 8
        assert abs(met[space.uniform(ratio)] - expected) < 5 * math.sqrt(expected)


def test_several_are_drawn_without_repetition_each_by_what_is_left(space):
    """Two of three weighing 1, 2 and 5: the first left out with probability 2/8 * 5/6 + 5/8 * 2/3."""
    sampler = DrawnSwitches(several(space), weights=(1, 1, 5, 1, 2), n=4, seed=2)
    draws = [sampler.ask(step)[1:-1] for step in range(4000)]

    assert all(len(set(draw)) == 2 for draw in draws)
    without = sum(space.uniform(0.5) not in draw for draw in draws)
    expected = 4000 * (2 / 8 * 5 / 6 + 5 / 8 * 2 / 3)
    assert abs(without - expected) < 5 * math.sqrt(expected)


def test_drawn_switches_of_equal_weight_are_those_of_no_weights_and_all_of_them_the_list(space):
    switches = several(space)
    even, given = DrawnSwitches(switches), DrawnSwitches(switches, weights=[1.0] * 5)

    assert [even.ask(step) for step in range(20)] == [given.ask(step) for step in range(20)]
    assert DrawnSwitches(switches, n=5).ask(0) == SwitchList(switches).ask(0)


def test_drawn_switches_of_other_weights_are_another_sampler(space):
    state = DrawnSwitches(several(space), weights=[1, 2, 3, 4, 5]).state_dict()

    with pytest.raises(CheckpointError, match="sampler has weights"):
        DrawnSwitches(several(space)).load_state_dict(state)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"n": 2}, RecipeError, r"DrawnSwitches\(n=2\) of 5 switches; expected 3 to 5"),
        ({"n": 6}, RecipeError, "expected 3 to 5"),
        ({"weights": [1, 1]}, WidthError, "expected 5 finite weights above 0"),
        ({"weights": [1, 1, 0, 1, 1]}, WidthError, "finite weights above 0"),
        ({"weights": [1, 1, math.inf, 1, 1]}, WidthError, "finite weights above 0"),
        ({"weights": [1, 1, math.nan, 1, 1]}, WidthError, "finite weights above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(space, how, error, message):
    with pytest.raises(error, match=message):
        DrawnSwitches(several(space), **how)
