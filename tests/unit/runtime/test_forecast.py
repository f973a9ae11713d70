"""Replayed requests take as long as in a queue that is simulated one request after the other."""

import numpy as np
import pytest

from slimmable.runtime.forecast import Speed, Trace, forecast


def rows(seed, count=40):
    generator = np.random.default_rng(seed)
    arrived = np.sort(generator.uniform(0, 1, count)) + 5
    factor, overhead = generator.uniform(0.8, 3, count), generator.uniform(0, 0.01, count)
    return np.column_stack([arrived, factor, overhead, np.zeros(count), generator.integers(1, 4, count)])


def one_by_one(trace, speed, backlog, slower):
    """Slow, and shares no line with the code."""
    free = trace.arrived[0] + backlog * speed.drain * float(np.median(trace.factor)) * slower
    found = []
    for arrived, factor, overhead, size in zip(trace.arrived, trace.factor, trace.overhead, trace.size, strict=True):
        waited = max(0.0, free - arrived)
        free = max(free, arrived) + size * speed.drain * factor * slower
        own = (speed.least + (size - 1) * speed.drain) * factor * slower
        found.append(waited + (max(own, speed.together * factor * slower) if waited > own else own) + overhead)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drain", [0.002, 0.01, 0.05])
@pytest.mark.parametrize(("backlog", "slower"), [(0, 1.0), (7, 1.0), (3, 1.25)])
def test_a_queue_replayed_is_the_queue_simulated(seed, drain, backlog, slower):
    trace = Trace.of(rows(seed))
    speed = Speed(least=1.5 * drain, tail=2 * drain, drain=drain, together=4 * drain)

    found = forecast(trace, speed, serial=True, backlog=backlog, slower=slower)

    np.testing.assert_allclose(found, one_by_one(trace, speed, backlog, slower), rtol=1e-9)


def test_requests_side_by_side_do_not_wait_for_each_other():
    trace = Trace.of([(0.0, 2.0, 0.5, 9.0, 1), (0.0, 3.0, 0.0, 9.0, 1)])

    assert forecast(trace, Speed.alone(0.1), serial=False).tolist() == pytest.approx([0.7, 0.3])


def test_no_requests_have_no_latencies_and_no_slow_down():
    nobody = Trace.of([])

    assert len(forecast(nobody, Speed.alone(0.1), serial=True, backlog=3)) == 0
    assert nobody.slow_down == 1


def test_a_trace_is_in_the_order_of_arrival_and_can_be_cut():
    trace = Trace.of(rows(3)[::-1])

    assert (np.diff(trace.arrived) >= 0).all()
    assert (trace.since(5.5).arrived >= 5.5).all()
    assert len(trace.since(99.0, least=10)) == 10
    assert len(trace.since(99.0, least=100)) == len(trace)
