"""Samplers: which widths a step gets, and that the future depends on their state alone."""

import json

import pytest

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.errors import CheckpointError, RecipeError, WidthError
from slimmable.train import Fixed, Sandwich, SwitchList


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
    }[kind]()


KINDS = ["fixed", "switches", "uniform", "nonuniform"]


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
