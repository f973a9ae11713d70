"""Requests that run together get the answers they would get alone."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from slimmable.errors import DeploymentError
from slimmable.runtime.controller import AdaptiveModel
from slimmable.runtime.profile import Profile, key_of, save
from slimmable.runtime.server.batching import Batcher, Job
from slimmable.runtime.server.refusals import Refused
from tests.unit.runtime.fakes import NAMES, FakeRuntime, RealClock, image


class Slow(FakeRuntime):
    """Half of the time of a batch is saved; runs begin when they are let."""

    def __init__(self, **options):
        super().__init__(RealClock(), **{"seconds": (0.001,) * 4, "gain": 0.5, **options})
        self.let = threading.Event()
        self.let.set()

    def run(self, *inputs, at=None):
        assert self.let.wait(10)
        return super().run(*inputs, at=at)


@pytest.fixture
def made(tmp_path):
    began = []

    def make(*, max_batch=8, max_wait=0.0, **options):
        runtime = Slow(**options)
        # The times it means to take: those measured on a busy machine say something else.
        times = {1: (1.0,), 8: (1 + 7 * (1 - runtime.gain),)}
        profile = Profile(names=NAMES, times=dict.fromkeys(range(4), times))
        save(profile, tmp_path / "profile.json", key_of(runtime, threads=1, batches=(1, 8)))
        model = AdaptiveModel(runtime, cache=tmp_path / "profile.json", batches=(1, 8))
        assert not runtime.runs
        batcher = Batcher(model, max_batch=max_batch, max_wait=max_wait)
        batcher.start()
        began.append((runtime, batcher))
        return SimpleNamespace(runtime=runtime, model=model, batcher=batcher)

    yield make
    for runtime, batcher in began:
        runtime.let.set()
        assert batcher.close(10)


def behind_a_running_one(made_, jobs):
    """The answers of jobs that waited together behind another one."""
    made_.runtime.let.clear()
    first = made_.batcher.submit(Job(inputs=[image(99)], queued=0.0))
    while made_.batcher.waiting():
        time.sleep(0.001)
    futures = [made_.batcher.submit(job) for job in jobs]
    made_.runtime.let.set()
    first.result(10)
    return [future.result(10) for future in futures]


def test_batched_answers_equal_single_ones(made):
    both = made()
    inputs = [np.concatenate([image(seed)] * (1 + seed % 2)) for seed in range(5)]

    parts = behind_a_running_one(both, [Job(inputs=[each], queued=0.0) for each in inputs])

    assert [count for _, count in both.runtime.runs] == [1, 7]
    for each, part in zip(inputs, parts, strict=True):
        [alone] = both.runtime.run(each)
        np.testing.assert_allclose(part.outputs[0], alone, rtol=1e-5, atol=1e-5)
        assert part.together == 7
        assert part.run.begun < part.run.ended


def test_a_batch_is_no_larger_than_allowed_and_keeps_the_order(made):
    limited = made(max_batch=4)
    sizes = [1, 2, 2, 3, 1, 4]

    parts = behind_a_running_one(
        limited, [Job(inputs=[np.concatenate([image()] * size)], queued=0.0) for size in sizes]
    )

    assert [count for _, count in limited.runtime.runs] == [1, 3, 2, 4, 4]
    assert [len(part.outputs[0]) for part in parts] == sizes


def test_only_inputs_of_one_shape_and_requests_of_one_kind_run_together(made):
    several = made()
    jobs = [Job(inputs=[image()], queued=0.0) for _ in range(4)]
    jobs[1] = Job(inputs=[image().astype(np.float64)], queued=0.0)
    jobs[3] = Job(inputs=[image()], queued=0.0, due=several.model.now() + 100)

    behind_a_running_one(several, jobs)

    assert [count for _, count in several.runtime.runs] == [1, 1, 1, 1, 1]


def test_where_batches_do_not_pay_nobody_waits(made):
    single = made(gain=0.0, max_wait=5.0)

    began = time.perf_counter()
    parts = behind_a_running_one(single, [Job(inputs=[image()], queued=0.0) for _ in range(3)])

    assert [part.together for part in parts] == [1, 1, 1]
    assert time.perf_counter() - began < 4


def test_a_run_waits_a_moment_for_others(made):
    patient = made(max_wait=5.0)
    first = patient.batcher.submit(Job(inputs=[np.concatenate([image()] * 5)], queued=0.0))
    time.sleep(0.02)
    second = patient.batcher.submit(Job(inputs=[np.concatenate([image()] * 3)], queued=0.0))

    assert first.result(10).together == second.result(10).together == 8


def test_who_has_gone_is_not_computed(made):
    gone = made(max_batch=1)
    gone.runtime.let.clear()
    first = gone.batcher.submit(Job(inputs=[image()], queued=0.0))
    while gone.batcher.waiting():
        time.sleep(0.001)
    left, stays = (gone.batcher.submit(Job(inputs=[image()], queued=0.0)) for _ in range(2))
    assert left.cancel()
    gone.runtime.let.set()

    assert first.result(10)
    assert stays.result(10)
    assert len(gone.runtime.runs) == 2


@pytest.mark.parametrize(
    ("error", "seen"),
    [(DeploymentError("index 7 is\nbehind the end"), Refused), (ZeroDivisionError(), ZeroDivisionError)],
)
def test_a_value_that_the_network_cannot_take_fails_its_own_request_alone(made, error, seen, caplog):
    faulty = made()
    run = faulty.runtime.run

    def run_or_fail(*inputs, at=None):
        if (inputs[0] == 7).any():
            raise error
        return run(*inputs, at=at)

    faulty.runtime.run = run_or_fail
    bad = Job(inputs=[np.full_like(image(), 7)], queued=0.0)
    good = [Job(inputs=[image(seed)], queued=0.0) for seed in range(3)]

    with pytest.raises(seen) as failed:
        behind_a_running_one(faulty, [good[0], bad, *good[1:]])

    for seed, job in enumerate(good):
        np.testing.assert_array_equal(job.future.result(10).outputs[0], run(image(seed))[0])
        assert job.future.result(10).together == 1
    assert "a run of 4 requests failed, so each runs alone" in caplog.text
    if seen is Refused:
        assert (failed.value.reason, failed.value.status) == ("unfit", 422)
        assert "cannot run on the values of this request: index 7 is behind the end" in str(failed.value)
    assert ("a run failed" in caplog.text) == (seen is not Refused)


def test_a_network_that_runs_on_nothing_is_a_fault_of_the_server(made, caplog):
    faulty = made()

    def fail(*inputs, at=None):
        raise DeploymentError("no memory is left")

    faulty.runtime.run = fail

    with pytest.raises(DeploymentError, match="no memory is left"):
        faulty.batcher.submit(Job(inputs=[image()], queued=0.0)).result(10)
    assert "a run failed" in caplog.text


def test_a_width_that_has_no_memory_for_a_request_is_a_fault_of_the_server(made):
    faulty = made()
    run = faulty.runtime.run

    def run_or_fail(*inputs, at=None):
        if at is not None:
            raise DeploymentError("no memory is left")
        return run(*inputs)

    faulty.runtime.run = run_or_fail
    due = faulty.model.now() + 60

    with pytest.raises(DeploymentError, match="no memory is left") as failed:
        faulty.batcher.submit(Job(inputs=[image()], queued=0.0, due=due)).result(10)
    assert not isinstance(failed.value, Refused)


def test_a_fault_that_passes_is_no_fault(made):
    faulty = made()
    run, faults = faulty.runtime.run, [DeploymentError("no memory is left")]

    def run_or_fail(*inputs, at=None):
        if faults:
            raise faults.pop()
        return run(*inputs, at=at)

    faulty.runtime.run = run_or_fail

    [found] = faulty.batcher.submit(Job(inputs=[image()], queued=0.0)).result(10).outputs
    np.testing.assert_array_equal(found, run(image())[0])


def test_outputs_of_another_number_of_examples_are_a_fault_of_the_server(made):
    faulty = made()
    faulty.runtime.run = lambda *inputs, at=None: [np.zeros((3, 5))]

    with pytest.raises(DeploymentError, match="1 examples gave outputs of"):
        faulty.batcher.submit(Job(inputs=[image()], queued=0.0)).result(10)


def test_closing_answers_all_who_wait_and_takes_no_more(made):
    closing = made()
    closing.runtime.let.clear()
    futures = [closing.batcher.submit(Job(inputs=[image()], queued=float(n))) for n in range(20)]
    while len(closing.batcher.waiting()) > 19:
        time.sleep(0.001)
    assert not closing.batcher.close(0.01)
    with pytest.raises(DeploymentError, match="closed"):
        closing.batcher.submit(Job(inputs=[image()], queued=0.0))
    closing.runtime.let.set()

    assert closing.batcher.close(10)
    assert all(future.done() and future.result() for future in futures)
