"""A model that keeps to its budget: what it starts with, how it switches, and what never fails meanwhile."""

import logging
import threading

import numpy as np
import pytest

from slimmable.core.space import Widths
from slimmable.errors import DeploymentError, WidthError
from slimmable.runtime.controller import AdaptiveModel
from slimmable.runtime.metrics import PrometheusMetrics
from slimmable.runtime.policies import Choice, EnergyLevel
from slimmable.runtime.window import Finished
from tests.unit.runtime.fakes import NAMES, SECONDS, FakeRuntime, RealClock, image


def adaptive(runtime=None, **options):
    runtime = runtime or FakeRuntime()
    return AdaptiveModel(runtime, **{"cache": False, "clock": runtime.clock, **options}), runtime


def calls(model, runtime, count, every=0.1):
    for _ in range(count):
        model(image())
        runtime.clock.sleep(every)


@pytest.mark.parametrize(
    ("budget", "active"),
    [
        ({}, "1.0"),
        ({"latency_ms": 20}, "1.0"),
        ({"latency_ms": 12}, "0.75"),
        ({"latency_ms": 3.1}, "0.25"),
        ({"memory_mb": 25}, "0.5"),
        ({"memory_mb": 25, "latency_ms": 4}, "0.25"),
        ({"policy": EnergyLevel(), "energy": lambda: 0.4}, "0.5"),
    ],
)
def test_the_widest_that_meets_the_budget_serves(budget, active):
    model, runtime = adaptive(**budget)

    assert model.state.active == active
    [scores] = model(image())
    np.testing.assert_array_equal(scores, runtime.run(image(), at=NAMES.index(active))[0])


@pytest.mark.parametrize(
    ("budget", "least"),
    [({"latency_ms": 2}, r"least on this device is 3 ms, at width 0\.25"), ({"memory_mb": 5}, "10 MB")],
)
def test_a_budget_that_nothing_meets_is_an_error_or_a_warning(budget, least, caplog):
    with pytest.raises(DeploymentError, match=least):
        adaptive(**budget)

    model, _ = adaptive(**budget, strict=False)
    assert model.state.active == "0.25"
    assert "the cheapest width serves" in caplog.text


def test_times_of_a_slow_start_do_not_make_a_budget_impossible_for_ever(tmp_path):
    path = tmp_path / "profile.json"

    def start(slow):
        runtime = FakeRuntime()
        runtime.slow = slow
        return adaptive(runtime, latency_ms=12, cache=path)

    with pytest.raises(DeploymentError, match=r"the least on this device is 15 ms, at width 0\.25; raise"):
        start(slow=5.0)
    with pytest.raises(
        DeploymentError, match=r"is 18 ms, at width 0\.25 \(measured again now, .*profile\.json said no"
    ):
        start(slow=6.0)
    model, _ = start(slow=1.0)
    assert model.state.active == "0.75"

    model, runtime = start(slow=6.0)
    assert model.state.active == "0.75"
    assert not runtime.runs  # the times that are kept now are believed


def test_a_target_that_only_the_tail_exceeds_is_tried(caplog):
    runtime = FakeRuntime()
    run, generator = runtime.run, np.random.default_rng(0)

    def disturbed(*inputs, at=None):
        runtime.slow = 1.0 if generator.random() < 0.5 else 9.0
        return run(*inputs, at=at)

    runtime.run = disturbed
    model, _ = adaptive(runtime, latency_ms=10)

    assert model.state.active == "0.25"
    assert "now it is 27 ms, at width 0.25, whose fastest run took 3 ms" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [{"latency_ms": 0}, {"latency_ms": float("inf")}, {"percentile": 100}, {"memory_mb": -1}, {"batches": (0,)}],
)
def test_arguments_that_make_no_sense_are_refused(wrong):
    with pytest.raises(DeploymentError):
        adaptive(**wrong)
    with pytest.raises(DeploymentError, match="one of them"):
        adaptive(latency_ms=20, policy=EnergyLevel())


def test_it_steps_down_under_load_and_up_when_the_load_is_gone():
    model, runtime = adaptive(latency_ms=20)
    calls(model, runtime, 20)
    assert model.state.active == "1.0"

    runtime.slow = 2.0
    calls(model, runtime, 10)
    assert model.state.active == "0.5"
    assert model.state.slow_down == pytest.approx(1.0)  # most requests of the window came before

    runtime.slow = 1.0
    calls(model, runtime, 200)
    state = model.state
    assert state.active == "1.0"
    assert (state.downs, state.ups) == (1, 2)
    assert [(NAMES[each.source], NAMES[each.target]) for each in state.switches] == [
        ("1.0", "0.5"),
        ("0.5", "0.75"),
        ("0.75", "1.0"),
    ]
    assert "p95 would be 32 of 20 ms; here it is 13 ms" in state.switches[0].reason
    assert "room to spare" in state.switches[1].reason


def test_the_state_tells_what_happens():
    model, runtime = adaptive(latency_ms=20)
    before = model.state
    calls(model, runtime, 10)

    state = model.state
    assert (before.p50_ms, before.tail_ms, before.requests["1.0"]) == (None, None, 0)
    assert (state.target_ms, state.percentile, state.pinned) == (20, 95, None)
    assert (state.p50_ms, state.tail_ms) == pytest.approx((16.0, 16.0))
    assert state.requests == {"0.25": 0, "0.5": 0, "0.75": 0, "1.0": 10}
    assert list(state.profile_ms.values()) == pytest.approx([1e3 * each for each in SECONDS])
    runtime.clock.sleep(11)
    assert model.state.p50_ms is None


def test_a_pinned_width_serves_whatever_happens():
    model, runtime = adaptive(latency_ms=20)
    runtime.slow = 10.0

    for width, name in ((0.5, "0.5"), ("1.0", "1.0"), (1, "0.5"), (Widths.of({"a": 32}), "1.0")):
        model.pin(width)
        calls(model, runtime, 5)
        assert (model.state.active, model.state.pinned) == (name, name)
    model.unpin()
    calls(model, runtime, 5)

    assert (model.state.active, model.state.pinned) == ("0.25", None)
    assert [each.manual for each in model.state.switches] == [True, True, True, True, False]
    with pytest.raises(WidthError, match=r"no stored width '0.3'; the widths are 0.25, 0.5"):
        model.pin("0.3")


def test_a_width_that_the_memory_excludes_cannot_be_pinned():
    model, _ = adaptive(memory_mb=25)

    with pytest.raises(DeploymentError, match=r"those that fit: 0\.25, 0\.5"):
        model.pin("1.0")


def test_the_width_before_serves_until_the_next_is_built():
    model, runtime = adaptive(FakeRuntime(build=0.5), latency_ms=20)
    runtime.slow = 2.0
    before = len(runtime.runs)
    calls(model, runtime, 12, every=0.05)

    places = [place for place, _ in runtime.runs[before:]]
    asked, built = model.state.switches[0].at, places.index(1)
    assert set(places[:built]) == {3}
    assert set(places[built:]) == {1}
    assert len(places[:built]) > 5
    assert len(model.state.switches) == 1
    assert asked < runtime.clock()


def gauge(model):
    """The width that serves, by the figures for Prometheus."""
    lines = model.metrics.page()[0].decode().splitlines()
    return [line.split('"')[1] for line in lines if line.startswith("slimmable_active_width") and line.endswith(" 1.0")]


def test_a_width_that_cannot_be_built_is_left_out(caplog):
    model, runtime = adaptive(latency_ms=20, metrics=PrometheusMetrics())
    runtime.fails, runtime.slow = {1}, 2.0
    calls(model, runtime, 10)

    assert model.state.active == "0.25"
    assert gauge(model) == ["0.25"]
    assert "width 0.5 is left out for 60 s: MemoryError: no room for it" in caplog.text
    assert [(NAMES[each.source], NAMES[each.target]) for each in model.state.switches] == [
        ("1.0", "0.5"),
        ("0.5", "1.0"),
        ("1.0", "0.25"),
    ]
    assert model.state.switches[1].reason == "no 0.5: MemoryError: no room for it"

    runtime.fails, runtime.slow = set(), 1.0
    calls(model, runtime, 1200)
    assert model.state.active == "1.0"


def test_a_pin_that_cannot_be_built_is_given_up(caplog):
    model, runtime = adaptive(FakeRuntime(build=0.5), metrics=PrometheusMetrics())
    runtime.fails = {0}
    with pytest.raises(MemoryError):
        model.pin("0.25")
    assert model.state.pinned is None

    model.pin("0.25", wait=False)
    calls(model, runtime, 3)
    assert (model.state.active, model.state.pinned) == ("1.0", "0.25")
    calls(model, runtime, 10)
    assert (model.state.active, model.state.pinned) == ("1.0", None)
    assert gauge(model) == ["1.0"]
    assert "no room for it" in caplog.text


def test_a_pin_may_take_as_long_as_it_takes():
    model, runtime = adaptive(FakeRuntime(build=40))
    model.pin("0.25", wait=False)
    calls(model, runtime, 300)
    assert (model.state.active, model.state.pinned) == ("1.0", "0.25")
    calls(model, runtime, 200)
    assert (model.state.active, model.state.pinned) == ("0.25", "0.25")


def test_a_build_that_never_ends_is_given_up(caplog):
    model, runtime = adaptive(FakeRuntime(build=1e9), latency_ms=20)
    runtime.slow = 2.0
    calls(model, runtime, 300)

    assert "was not built within 30 s" in caplog.text
    assert not runtime.builds or model.state.switches[-1].target in runtime.builds
    assert {NAMES[each.target] for each in model.state.switches} >= {"0.5", "0.25"}
    assert model.state.requests["1.0"] == 300


def test_a_faulty_policy_takes_no_answer_away(caplog):
    class Faulty:
        def choose(self, observation):
            if len(observation.trace):
                raise ZeroDivisionError
            return Choice(2, "")

    model, runtime = adaptive(policy=Faulty())
    calls(model, runtime, 3)

    assert model.state.requests["0.75"] == 3
    assert "no width could be chosen; 0.75 serves on" in caplog.text


def test_a_deadline_chooses_the_width_of_its_request_only():
    model, runtime = adaptive()
    model(image())

    for deadline, place in ((100, 3), (13, 2), (9, 1), (1, 0)):
        model(image(), deadline_ms=deadline)
        assert runtime.runs[-1] == (place, 1)
        assert model.state.active == "1.0"
    queued = runtime.clock() - 0.087
    model(image(), deadline_ms=100, enqueued_at=queued)
    assert runtime.runs[-1] == (2, 1)


@pytest.mark.parametrize("gain", [0.0, 0.5])
@pytest.mark.parametrize("batches", [(1,), (1, 8)])
def test_a_deadline_counts_all_examples(gain, batches):
    model, runtime = adaptive(FakeRuntime(gain=gain), batches=batches)
    eight = np.concatenate([image(seed) for seed in range(8)])
    known = (
        8 * (1 - gain) + gain if 8 in batches else 8
    )  # times of one example: batches that were not timed gain nothing

    for place, seconds in enumerate(SECONDS):
        begun = runtime.clock()
        model(eight, deadline_ms=1e3 * seconds * known / 0.9 + 0.1)
        assert runtime.runs[-1] == (place, 8)
        assert runtime.clock() - begun <= seconds * known / 0.9


@pytest.mark.parametrize("deadline", [1, 13, 1000])
def test_a_pinned_width_runs_whatever_the_deadline(deadline):
    model, runtime = adaptive()
    model.pin("0.5")

    model(image(), deadline_ms=deadline)

    assert runtime.runs[-1] == (1, 1)


def test_a_deadline_runs_only_what_is_ready():
    model, runtime = adaptive(FakeRuntime(keep=2), latency_ms=20)
    ready = set(runtime.ready)
    assert len(ready) == 2

    model(image(), deadline_ms=1)

    assert runtime.runs[-1] == (min(ready), 1)


def test_time_in_a_queue_counts():
    model, runtime = adaptive(latency_ms=40)
    runtime.clock.now = 1.0
    model(image(), enqueued_at=0.9)

    assert model.state.p50_ms == pytest.approx(116.0)


def test_energy_is_asked_once_a_second_and_a_faulty_reading_is_survived(caplog):
    asked = []

    def energy():
        asked.append(1)
        if len(asked) > 3:
            raise OSError("no battery")
        return 1.0 if len(asked) < 3 else 0.1

    model, runtime = adaptive(policy=EnergyLevel(), energy=energy)
    calls(model, runtime, 35, every=0.084)

    assert len(asked) == 4
    assert model.state.active == "0.25"
    assert "no battery" in caplog.text


def test_switches_and_requests_are_counted_for_prometheus():
    model, runtime = adaptive(latency_ms=20, metrics=PrometheusMetrics())
    calls(model, runtime, 3)
    runtime.slow = 2.0
    calls(model, runtime, 3)

    text, kind = model.metrics.page()
    lines = text.decode().splitlines()
    assert kind.startswith("text/plain")
    for line in (
        'slimmable_requests_total{width="1.0"} 5.0',
        'slimmable_requests_total{width="0.5"} 1.0',
        'slimmable_switches_total{direction="down"} 1.0',
        'slimmable_switches_total{direction="up"} 0.0',
        'slimmable_active_width{width="0.5"} 1.0',
        'slimmable_active_width{width="1.0"} 0.0',
        "slimmable_latency_seconds_count 6.0",
    ):
        assert line in lines


def test_no_request_fails_while_threads_call_and_widths_change(caplog):
    caplog.set_level(logging.ERROR)
    runtime = FakeRuntime(RealClock(), seconds=(0.0002, 0.0004, 0.0006, 0.0008), build=0.003, keep=2)
    model, _ = adaptive(runtime, latency_ms=20, interval=0.0)
    inputs = [image(seed) for seed in range(6)]
    expected = [[runtime.run(each, at=place)[0] for place in range(4)] for each in inputs]
    done, wrong = [0] * len(inputs), []
    over = threading.Event()

    def call(place):
        while not over.is_set():
            [scores] = model(inputs[place], deadline_ms=50 if done[place] % 5 == 0 else None)
            done[place] += 1
            if not any(np.array_equal(scores, each) for each in expected[place]):
                wrong.append(scores)

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for turn in range(60):
        if turn % 3 == 2:
            model.unpin()
        else:
            model.pin(NAMES[turn % 4], wait=turn % 2 == 0)
        runtime.slow = 1.0 + 20 * (turn % 2)
        over.wait(0.01)
    over.set()
    for thread in threads:
        thread.join()

    assert not wrong
    assert min(done) > 0
    assert sum(model.state.requests.values()) == sum(done)
    assert not caplog.records


def test_a_path_is_opened_and_closed(monkeypatch):
    runtime = FakeRuntime()
    opened = []

    def open_(path, budget, **options):
        opened.append((path, options))
        return runtime

    monkeypatch.setattr("slimmable.runtime.controller._opened", open_)
    with AdaptiveModel("x.slim", threads=2, sessions=1, cache=False, clock=runtime.clock):
        assert not runtime.closed
    assert runtime.closed
    assert opened == [("x.slim", {"backend": "onnx", "threads": 2, "sessions": 1})]

    runtime.closed = False
    with pytest.raises(DeploymentError):
        AdaptiveModel("x.slim", latency_ms=1, cache=False, clock=runtime.clock)
    assert runtime.closed


def test_a_request_during_a_switch_counts_without_judging_a_width():
    model, runtime = adaptive()
    model.observe(
        Finished(index=3, arrived=0.0, begun=0.0, ended=99.0, answered=99.0),
        certain=False,
    )

    assert model.state.requests["1.0"] == 1
    assert model.state.slow_down == 1
    assert runtime.active == 3
