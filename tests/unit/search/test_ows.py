"""OWS's and AOWS's sampler: what it draws, what it learns, and that its state decides its future."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.errors import CheckpointError, SearchError
from slimmable.search import Additive, Alternatives
from slimmable.search.ows import Adaptation, Ows, Temperatures
from slimmable.search.platforms import Platform

PLATFORMS = (
    Platform(name="small", budget=40.0, importance=0.5, sampling=0.5),
    Platform(name="large", budget=75.0, importance=0.5, sampling=0.5),
)


@pytest.fixture
def alternatives():
    groups = [WidthGroup(name=f"g{i}", base=32, minimum=8, maximum=32, divisor=8) for i in range(3)]
    return Alternatives.of(WidthSpace(tuple(groups), 0.25, 1.0))


def adaptation(alternatives, **changes):
    channels = [np.array(these, dtype=float) for these in alternatives.channels]
    pairs = {(i, i + 1): np.outer(channels[i], channels[i + 1]) / 100 for i in range(2)}
    cost = Additive(unary=tuple(channels), pairs=pairs)
    how = {"platforms": PLATFORMS, "warm_up": 200, "steps": 1000, "temperatures": Temperatures(values=(0.2, 0.002))}
    return Adaptation(cost=cost, **{**how, **changes})


def loss_of(widths):
    """Additive, and worth most in the first group."""
    return 3 * 8 / widths["g0"] + 8 / widths["g1"] + 0.5 * 8 / widths["g2"]


def train(sampler, steps, first=0):
    drawn = []
    for step in range(first, first + steps):
        widths_list = sampler.ask(step)
        drawn += widths_list[1:-1]
        for widths in widths_list:
            sampler.tell(widths, loss_of(widths))
    return drawn


def test_ows_draws_every_choice_alike_and_learns_the_loss(alternatives):
    sampler = Ows(alternatives, k=2, window=10**5, seed=1)
    drawn = train(sampler, 1500)
    counts = Counter(widths["g1"] for widths in drawn)
    assert max(counts.values()) < 1.15 * min(counts.values())
    for table, weight in zip(sampler.losses.unary().unary, (3, 1, 0.5), strict=True):
        expected = weight * (1 / np.arange(1, 5) - 1) / 3
        np.testing.assert_allclose(table - table[0], expected, atol=0.05)


@pytest.mark.parametrize("joint", [True, False])
def test_aows_turns_to_the_platforms_best_widths(alternatives, joint):
    how = adaptation(alternatives, joint=joint)
    sampler = Ows(alternatives, adaptation=how, window=10**5, seed=2)
    early, late = train(sampler, 200), train(sampler, 800, first=200)[-200:]
    cost = [how.cost(alternatives.choices(widths)) for widths in late]
    # Near the end nearly all draws are the hull's solutions of the two budgets.
    assert len(set(late)) <= 8 < len(set(early))
    assert min(cost) <= 40 < max(cost) <= 76 + 8
    assert np.mean([loss_of(w) for w in late]) < np.mean([loss_of(w) for w in early])


def test_joint_draws_follow_the_distribution_of_the_energy(alternatives):
    how = adaptation(alternatives, platforms=PLATFORMS[:1], temperatures=Temperatures(values=(0.3,)))
    sampler = Ows(alternatives, adaptation=how, window=10**5)
    train(sampler, 200)
    energy = sampler.energy(how, PLATFORMS[0])
    sampler.tell = lambda widths, loss: None  # the statistics stay as they are
    drawn = Counter(alternatives.choices(w) for w in (sampler.ask(step)[1] for step in range(200, 3200)))
    every = list(np.ndindex(*alternatives.sizes))
    weights = np.exp([-energy(choices) / 0.3 for choices in every])
    expected = 3000 * weights / weights.sum()
    met = np.array([drawn[choices] for choices in every])
    likely = expected > 5
    chi = ((met[likely] - expected[likely]) ** 2 / expected[likely]).sum()
    assert chi < likely.sum() + 4 * np.sqrt(2 * likely.sum())


def test_a_stored_state_gives_the_same_future(alternatives):
    how = adaptation(alternatives)
    sampler, other = (Ows(alternatives, adaptation=how, seed=3) for _ in range(2))
    train(sampler, 260)
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert train(other, 40, first=260) == train(sampler, 40, first=260)
    with pytest.raises(CheckpointError, match="sampler has seed=3"):
        Ows(alternatives, adaptation=how, seed=4).load_state_dict(sampler.state_dict())


def test_temperature_is_one_until_the_warm_up_ends_and_falls_along_its_corners():
    temperatures = Temperatures()
    assert [temperatures.at(share) for share in (0, 1 / 3, 2 / 3, 1)] == pytest.approx([1, 0.01, 0.001, 0.0005])
    assert temperatures.at(1 / 6) == pytest.approx(0.1)


def test_what_cannot_be_is_refused(alternatives):
    with pytest.raises(SearchError, match="at least 1 random configuration"):
        Ows(alternatives, k=0)
    with pytest.raises(SearchError, match="sampling above 0"):
        adaptation(alternatives, platforms=tuple(replace(each, sampling=0.0) for each in PLATFORMS))
    with pytest.raises(SearchError, match="warm-up of 0 to 999"):
        adaptation(alternatives, warm_up=1000)
    with pytest.raises(SearchError, match="temperatures above 0"):
        Temperatures(values=(1.0, 0.0))


def test_every_configuration_counts_once_though_it_be_the_narrowest():
    group = WidthGroup(name="g", base=16, minimum=8, maximum=16, divisor=8)
    sampler = Ows(Alternatives.of(WidthSpace((group,), 0.5, 1.0)), k=3, window=1000)
    for step in range(50):
        for widths in sampler.ask(step):
            sampler.tell(widths, float(widths["g"]))
    assert sum(sampler.losses.counts[0]) == 150
