"""Policies are pure: what they are shown decides, and only that."""

from dataclasses import replace

import pytest

from slimmable.errors import DeploymentError
from slimmable.runtime.forecast import Speed, Trace
from slimmable.runtime.latency_target import LatencyTarget
from slimmable.runtime.policies import Choice, Deadline, EnergyLevel, MemoryLimit, Observation, Switch, Widest
from tests.unit.runtime.fakes import SECONDS

SPEEDS = {place: Speed.alone(seconds) for place, seconds in enumerate(SECONDS)}
NBYTES = {place: 10 * (place + 1) for place in SPEEDS}
TARGET = LatencyTarget(seconds=0.02)


def seen(trace=(), **changes):
    plain = Observation(
        now=100.0, active=3, candidates=(0, 1, 2, 3), speeds=SPEEDS, trace=Trace.of(trace), nbytes=NBYTES
    )
    return replace(plain, **changes)


def requests(*, rate, factor=1.0, seconds=5.0, until=100.0):
    """So many requests a second, evenly, the last a moment ago."""
    return [(until - n / rate, factor, 0.0, 0.0, 1) for n in range(1, int(rate * seconds) + 1)]


def switch(at, source, target, demand=20.0, **more):
    return Switch(at=at, source=source, target=target, reason="", demand=demand, **more)


def test_the_widest_and_the_widest_that_fits():
    assert Widest().choose(seen()).index == 3
    assert MemoryLimit(most_bytes=25).choose(seen()).index == 1
    assert MemoryLimit(most_bytes=1).choose(seen()).index == 0


@pytest.mark.parametrize(
    ("energy", "active", "index"),
    [
        (1.0, 0, 3),
        (0.75, 3, 3),  # it stays at the level itself, but needs a little more to get there
        (0.75, 0, 2),
        (0.5, 3, 2),
        (0.26, 1, 1),
        (0.26, 0, 0),
        (0.0, 3, 0),
        (None, 0, 3),
    ],
)
def test_less_energy_fewer_widths(energy, active, index):
    assert EnergyLevel().choose(seen(energy=energy, active=active)).index == index


def test_energy_levels_of_ones_own_limit_another_policy():
    level = EnergyLevel(levels=(0.9, 0.95), then=MemoryLimit(most_bytes=20))

    assert level.choose(seen(energy=0.5)).index == 0
    assert level.choose(seen(energy=1.0)).index == 1
    with pytest.raises(DeploymentError, match="ascending"):
        EnergyLevel(levels=(0.5, 0.2))


@pytest.mark.parametrize(
    ("remaining", "factor", "index"),
    [(None, 1, 3), (0.1, 1, 3), (0.0149, 1, 2), (0.0149, 2, 1), (0.004, 1, 0), (0.001, 1, 0), (-1.0, 1, 0)],
)
def test_a_deadline_takes_the_widest_that_is_in_time(remaining, factor, index):
    trace = requests(rate=20, factor=factor)

    assert Deadline().choose(seen(trace, remaining=remaining)).index == index


@pytest.mark.parametrize(("target_ms", "index"), [(100, 3), (16, 3), (15.9, 2), (7, 1), (3, 0), (1, 0)])
def test_without_requests_the_profile_decides(target_ms, index):
    policy = LatencyTarget(seconds=target_ms / 1e3)

    assert policy.choose(seen(active=0)).index == index


@pytest.mark.parametrize(("factor", "index"), [(1.0, 3), (1.1, 3), (1.3, 2), (2.0, 1), (5.0, 0), (50.0, 0)])
@pytest.mark.parametrize("serial", [True, False])
def test_it_steps_down_at_once_as_far_as_it_must(factor, index, serial):
    choice = TARGET.choose(seen(requests(rate=10, factor=factor), serial=serial))

    assert choice.index == index
    assert ("in time" in choice.reason) == (index == 3)


def test_one_slow_request_is_no_load_and_two_are():
    rows = requests(rate=10)
    slow = (99.95, 3.0, 0.0, 0.0, 1)

    assert TARGET.choose(seen([*rows, slow])).index == 3
    assert TARGET.choose(seen([*rows, slow, slow])).index < 3


@pytest.mark.parametrize(("rate", "index"), [(10, 3), (58, 3), (70, 2), (120, 1), (250, 0)])
def test_a_queue_that_would_grow_is_foreseen(rate, index):
    assert TARGET.choose(seen(requests(rate=rate), serial=True)).index == index


def test_what_waits_counts():
    rows = requests(rate=40)

    assert TARGET.choose(seen(rows, serial=True)).index == 3
    assert TARGET.choose(seen(rows, serial=True, waiting=30)).index < 3


def test_latencies_of_the_width_before_are_no_reason_to_step_down_again():
    late = [(arrived, 1.0, 0.0, 0.5, 1) for arrived, *_ in requests(rate=40)]

    choice = TARGET.choose(seen(late, serial=True, active=2, switches=(switch(99.9, 3, 2),)))

    assert choice.index == 2


def test_it_steps_up_by_one_after_the_hold_only():
    rows = requests(rate=10)
    switched = [seen(rows, active=0, switches=(switch(at, 2, 0),)) for at in (99.0, 97.5, 96.9)]

    assert [TARGET.choose(each).index for each in switched] == [0, 0, 1]


def test_it_does_not_step_up_into_a_load_that_the_wider_one_just_holds():
    # At 60 requests a second the widest is busy 96 % of the time.
    assert TARGET.choose(seen(requests(rate=60), serial=True, active=2)).index == 2
    assert TARGET.choose(seen(requests(rate=40), serial=True, active=2)).index == 3


def tries(*lengths, quiet, **more):
    """A history of steps up, each taken back after so many seconds, the last of them ``quiet`` seconds ago."""
    history, now = [], 100.0 - quiet
    for length in reversed(lengths):
        history = [switch(now - length, 2, 3), switch(now, 3, 2, **more), *history]
        now -= length + 5
    return tuple(history)


@pytest.mark.parametrize(
    ("lengths", "hold"), [((20,), 3), ((1,), 6), ((1, 14), 12), ((1, 20, 1), 6), ((1, 1, 1), 24), ((1,) * 9, 60)]
)
def test_each_step_up_that_failed_since_the_last_success_doubles_the_hold(lengths, hold):
    rows = requests(rate=20, seconds=10)

    def chosen(quiet, **more):
        return TARGET.choose(seen(rows, active=2, serial=True, switches=tries(*lengths, quiet=quiet, **more))).index

    assert (chosen(hold - 0.1), chosen(hold + 0.1)) == (2, 3)
    # That the load rose meanwhile says nothing against the width.
    assert chosen(3.1, demand=40.0) == 3


def test_failures_under_a_higher_load_are_forgotten():
    history = tries(1, 1, 1, quiet=3.1)
    rows = requests(rate=20, seconds=10)

    def chosen(demand):
        switches = tuple(replace(each, demand=demand) for each in history)
        return TARGET.choose(seen(rows, active=2, serial=True, switches=switches)).index

    assert [chosen(demand) for demand in (10.0, 20.0, 40.0)] == [2, 2, 3]


@pytest.mark.parametrize(("active", "index"), [(3, 1), (0, 0)])
def test_a_width_that_may_not_serve_any_more_is_left(active, index):
    shown = seen(requests(rate=10), active=active, candidates=(0, 1), switches=(switch(99.0, 0, active),))

    assert TARGET.choose(shown).index == index


UNEVEN = {place: Speed.alone(seconds) for place, seconds in enumerate((0.003, 0.0065, 0.03, 0.016))}


@pytest.mark.parametrize(
    ("active", "factor", "index"), [(0, 1.0, 1), (1, 1.0, 3), (2, 1.0, 3), (3, 1.0, 3), (2, 2.0, 1), (3, 2.0, 1)]
)
@pytest.mark.parametrize("serial", [True, False])
def test_a_width_that_is_slower_than_a_wider_one_is_passed_over(active, factor, index, serial):
    shown = seen(requests(rate=10, factor=factor), active=active, speeds=UNEVEN, serial=serial)

    assert TARGET.choose(shown).index == index


@pytest.mark.parametrize("trace", [(), tuple(requests(rate=10, factor=9.0))])
def test_the_fastest_is_the_last_resort_though_another_computes_less(trace):
    # The first pays off in batches only.
    speeds = {**UNEVEN, 0: Speed(least=0.03, tail=0.03, drain=0.002, together=0.03)}

    assert LatencyTarget(seconds=0.004).choose(seen(trace, active=1, speeds=speeds)).index == 1


@pytest.mark.parametrize("remaining", [0.004, 0.001, -1.0])
def test_the_fastest_is_the_last_resort_of_a_deadline_and_the_smallest_of_a_memory(remaining):
    speeds = {**UNEVEN, 0: Speed.alone(0.008)}

    assert Deadline().choose(seen(remaining=remaining, speeds=speeds)).index == 1
    assert MemoryLimit(most_bytes=1).choose(seen(nbytes={0: 20, 1: 10, 2: 30, 3: 40})).index == 1


def test_the_same_observation_gets_the_same_answer():
    shown = seen(requests(rate=120), serial=True, waiting=4)

    answers = [TARGET.choose(shown) for _ in range(3)]

    assert answers == [answers[0]] * 3
    assert isinstance(answers[0], Choice)


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0}, {"percentile": 100}, {"hold": 0}, {"hold": 90}, {"safety": 1.0}, {"react": 0}, {"least": 0}],
)
def test_targets_that_make_no_sense_are_refused(wrong):
    with pytest.raises(DeploymentError, match="no latency target"):
        LatencyTarget(**{"seconds": 0.02, **wrong})
