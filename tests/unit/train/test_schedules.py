"""Schedules at the points where their closed form can be told without them."""

import itertools
import math

import pytest

from slimmable.errors import RecipeError
from slimmable.train import Constant, Cosine, Exponential, LearningRate, Linear, Step

EPOCHS, PER_EPOCH = 100, 7
TOTAL = EPOCHS * PER_EPOCH


def at(schedule, iteration, **options):
    return LearningRate(base=0.5, schedule=schedule, per_epoch=PER_EPOCH, epochs=EPOCHS, **options)(iteration)


@pytest.mark.parametrize(
    ("schedule", "iteration", "expected"),
    [
        (Constant(), 0, 0.5),
        (Constant(), TOTAL - 1, 0.5),
        (Step(milestones=(30, 60, 90)), 30 * PER_EPOCH - 1, 0.5),
        (Step(milestones=(30, 60, 90)), 30 * PER_EPOCH, 0.05),
        (Step(milestones=(30, 60, 90)), TOTAL - 1, 0.0005),
        (Step(milestones=(1,), ratio=0.5), PER_EPOCH, 0.25),
        (Exponential(ratio=0.98), PER_EPOCH - 1, 0.5),
        (Exponential(ratio=0.98), 10 * PER_EPOCH, 0.5 * 0.98**10),
        (Linear(), 0, 0.5),
        (Linear(), TOTAL // 4, 0.375),
        (Linear(), TOTAL - 1, 0.5 / TOTAL),
        (Cosine(), 0, 0.5),
        (Cosine(), TOTAL // 4, 0.25 * (1 + math.sqrt(0.5))),
        (Cosine(), TOTAL // 2, 0.25),
    ],
)
def test_closed_form(schedule, iteration, expected):
    assert at(schedule, iteration) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", [Constant(), Step(milestones=(3,)), Exponential(), Linear(), Cosine()], ids=repr)
def test_rates_stay_positive_and_never_rise_after_the_warm_up(schedule):
    rates = [at(schedule, iteration, warmup_epochs=2) for iteration in range(TOTAL)]
    assert min(rates) > 0
    after = rates[2 * PER_EPOCH :]
    assert all(b <= a for a, b in itertools.pairwise(after))


@pytest.mark.parametrize("schedule", [Step(milestones=(1,)), Exponential(), Linear(), Cosine()], ids=repr)
def test_warm_up_multiplies_the_schedule_by_a_ramp(schedule):
    for iteration in range(TOTAL):
        ramp = min(1.0, (iteration + 1) / (3 * PER_EPOCH))
        assert at(schedule, iteration, warmup_epochs=3) == pytest.approx(ramp * at(schedule, iteration), rel=1e-12)


def test_warm_up_may_end_inside_an_epoch():
    rate = LearningRate(base=1.0, schedule=Constant(), per_epoch=10, epochs=1, warmup_epochs=0.4)
    assert [rate(iteration) for iteration in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(milestones=(60, 30)), "increasing"),
        (lambda: Step(milestones=(0,)), "increasing"),
        (lambda: Step(milestones=(3,), ratio=0.0), "Step.ratio is 0.0"),
        (lambda: Exponential(ratio=1.5), "Exponential.ratio is 1.5"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()
