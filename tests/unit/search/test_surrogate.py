"""The Gaussian process, the acquisition and PareCO's sampler."""

import json
import random

import numpy as np
import pytest
import torch

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.cost.costs import NamedCost
from slimmable.errors import CheckpointError, SearchError
from slimmable.search.pareco import PareCo, bayesian
from slimmable.search.pareto import area_under_curve
from slimmable.search.surrogate import Acquisition, Surrogate
from slimmable.search.trials import Budget

GROUPS = [WidthGroup(name=f"g{i}", base=128, minimum=32, maximum=128, divisor=8) for i in range(4)]
SPACE = WidthSpace(tuple(GROUPS), 0.25, 1.0)
COST = NamedCost(name="squares", unit="", of=lambda many: np.array([np.square(each.channels).sum() for each in many]))


def loss_of(widths):
    """Smooth, and far from uniform in its best trade-off: the first group is worth most."""
    return float(
        sum(weight * 32 / channels for weight, channels in zip((4, 1, 0.5, 0.1), widths.channels, strict=True))
    )


def probe(widths_list):
    return [loss_of(widths) for widths in widths_list]


def some(count, seed=0):
    generator = random.Random(seed)
    return list(dict.fromkeys(SPACE.random(generator) for _ in range(count)))


def test_posterior_is_that_of_the_kernel_matrix():
    """Mean and variance of a Gaussian process by definition, with the hyperparameters that were fitted."""
    known, new = some(15), some(6, seed=1)
    surrogate = Surrogate(SPACE)
    losses = probe(known)
    surrogate.learn(known, losses)
    mean, deviation = surrogate.predict(new)

    kernel = surrogate._model.covar_module
    scale, length = kernel.outputscale.item(), kernel.base_kernel.lengthscale.detach().numpy()[0]
    noise, mu = surrogate._model.likelihood.noise.item(), surrogate._model.mean_module.constant.item()

    def matern(a, b):
        d = np.sqrt(5 * (((a[:, None] - b[None]) / length) ** 2).sum(-1))
        return scale * (1 + d + d**2 / 3) * np.exp(-d)

    x, z = surrogate.inputs(known), surrogate.inputs(new)
    y, spread = np.array(losses), np.std(losses, ddof=1)
    gram = matern(x, x) + noise * np.eye(len(x))
    cross = matern(z, x)
    expected = np.mean(y) + spread * (mu + cross @ np.linalg.solve(gram, (y - y.mean()) / spread - mu))
    variance = spread**2 * (scale - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T)))
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-4)


def test_hyperparameters_are_fitted_again_only_when_the_history_has_grown():
    surrogate, known = Surrogate(SPACE, refit=1.5), some(40)
    surrogate.learn(known[:20], probe(known[:20]))
    first = surrogate.state_dict()
    surrogate.learn(known[:29], probe(known[:29]))
    assert surrogate.state_dict() == first
    surrogate.learn(known[:31], probe(known[:31]))
    assert surrogate.state_dict() != first


def test_areas_are_the_rectangles_of_equation_3():
    """Three points between the ends, worked out by hand: ten bins of ten over costs from 0 to 100."""
    acquisition = Acquisition(bins=10, worst_loss=8.0)
    costs, losses = np.array([20.0, 50.0, 60.0, 55.0]), [5.0, 4.0, 1.0, 6.0]  # the last is dominated
    found = acquisition.areas(costs, losses, 0.0, 100.0)
    # From (0, 8) to (20, 5): 60 over two bins; to (50, 4): 30 over three; to (60, 1): 30 in one; then nothing falls.
    np.testing.assert_allclose(found, [30, 30, 10, 10, 10, 30, 0, 0, 0, 0])


def test_targets_are_drawn_by_area_and_met_within_the_tolerance():
    acquisition, known = Acquisition(pool=512), some(60)
    surrogate = Surrogate(SPACE)
    costs, losses = COST(known).astype(float), probe(known)
    least, most = COST([SPACE.smallest, SPACE.largest])
    generator = random.Random(5)
    targets = [acquisition.target(costs, losses, least, most, generator) for _ in range(2000)]
    weights = acquisition.areas(costs, losses, least, most)
    counts, _ = np.histogram(targets, bins=acquisition.bins, range=(least, most))
    np.testing.assert_allclose(counts / 2000, weights / weights.sum(), atol=0.05)

    found = acquisition.propose(surrogate, COST, known, losses, count=8, seed="t")
    assert len(set(found)) == 8
    assert found == acquisition.propose(Surrogate(SPACE), COST, known, losses, count=8, seed="t")
    near = [min(abs(cost - target) for target in targets) / most for cost in COST(found)]
    assert np.mean(np.array(near) <= acquisition.tolerance) > 0.8


def test_proposals_lie_near_the_true_front():
    """Against thousands of random widths: at their cost hardly any of those has a smaller loss."""
    known = some(80)
    found = Acquisition(pool=1024).propose(Surrogate(SPACE), COST, known, probe(known), count=10, seed="front")
    others = [SPACE.smallest, *some(5000, seed=9)]
    costs, losses = COST(others), np.array(probe(others))
    better = [(losses[costs <= cost] < loss_of(each)).mean() for each, cost in zip(found, COST(found), strict=True)]
    assert np.median(better) < 0.01


def test_search_after_training_beats_random_widths():
    asked = []

    def objective(widths_list):
        asked.extend(widths_list)
        return probe(widths_list)

    front = bayesian(SPACE, objective, [Budget(cost=COST)], trials=60, batch=8, seed=1)
    assert len(asked) == len(set(asked)) == 60
    assert all(point.loss == loss_of(point.widths) for point in front)

    def area(widths_list):
        costs, losses = COST(widths_list), np.array(probe(widths_list))
        return area_under_curve(costs, losses, between=(2e4, 6e4))

    ends = [SPACE.smallest, SPACE.largest]
    assert area([point.widths for point in front]) < min(area(ends + some(58, seed=seed)) for seed in range(5))


def train(sampler, steps, first=0):
    return [tuple(sampler.ask(step, probe)) for step in range(first, first + steps)]


def make(**how):
    how = {"n": 3, "warm_up": 6, "acquisition": Acquisition(pool=64), "seed": 7, **how}
    return PareCo(SPACE, COST, **how)


def test_history_begins_uniform_then_holds_the_widest_then_what_was_found():
    sampler = make()
    asked = train(sampler, 15)
    assert all(step[0] == SPACE.largest and step[-1] == SPACE.smallest and len(step) == 4 for step in asked)
    assert [len(set(asked[first : first + 3])) for first in (0, 3, 6, 9, 12)] == [1] * 5
    uniform = {SPACE.uniform(0.25 + 0.75 * share / 1000) for share in range(1001)}
    assert set(sampler.history[:6]) <= uniform
    assert sampler.history[6] == SPACE.largest
    assert len(sampler.history) == 6 + 1 + 4
    assert not set(sampler.history[7:]) <= uniform


def test_front_is_not_dominated_by_the_history():
    sampler = make()
    train(sampler, 16)
    known = sampler.history[: len(sampler.losses)]
    points = [(cost, loss_of(widths)) for widths, cost in zip(known, COST(known), strict=True)]
    for widths, cost in zip(sampler.front, COST(sampler.front), strict=True):
        mine = (cost, loss_of(widths))
        assert not any(c <= cost and loss <= mine[1] and (c, loss) != mine for c, loss in points)


def test_a_stored_state_gives_the_same_future():
    sampler, other = make(), make()
    train(sampler, 14)
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert other.front == sampler.front
    torch.manual_seed(1)
    expected = train(sampler, 7, first=14)
    torch.manual_seed(2)
    assert train(other, 7, first=14) == expected
    with pytest.raises(CheckpointError, match="sampler has n=3"):
        make(n=4).load_state_dict(sampler.state_dict())


def test_what_cannot_be_is_refused():
    with pytest.raises(SearchError, match="expected a probe"):
        make().ask(0)
    with pytest.raises(SearchError, match=r"PareCo\(m=0"):
        make(m=0)
    with pytest.raises(SearchError, match="expected pareto or uniform"):
        Acquisition(sampling="area")
    with pytest.raises(SearchError, match="bisections is 0"):
        Acquisition(bisections=0)
    with pytest.raises(SearchError, match="2 <= warm-up <= trials"):
        bayesian(SPACE, probe, [Budget(cost=COST)], trials=5)
