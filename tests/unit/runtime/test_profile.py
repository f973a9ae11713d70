"""Times of stored widths: taken once, kept, and never believed when they are another device's or damaged."""

import json
from itertools import pairwise

import numpy as np
import pytest

from slimmable.runtime.profile import Profile, cached_path, examples, key_of, measure, profile_of
from tests.unit.runtime.fakes import NAMES, SECONDS, FakeRuntime, RealClock, VirtualClock


def profiled(runtime, **options):
    return profile_of(runtime, range(4), threads=1, **{"cache": False, "clock": runtime.clock, **options})


def test_times_are_those_of_the_device():
    runtime = FakeRuntime(gain=0.5)

    found = profiled(runtime, batches=(8,))

    for place, seconds in enumerate(SECONDS):
        assert found.milliseconds(place) == pytest.approx(1e3 * seconds)
        assert found.milliseconds(place, 99, batch=8) == pytest.approx(1e3 * seconds * 4.5)
        assert found.expected(place, 8) == pytest.approx(seconds * 4.5)
        assert found.expected(place, 4) == pytest.approx(seconds * 2.5)
    assert found.names == NAMES


def test_widths_take_turns_unless_too_few_are_kept_ready():
    def order(keep):
        runtime = FakeRuntime(keep=keep)
        measure(runtime, range(4), rounds=6, clock=runtime.clock)
        return [place for place, _ in runtime.runs]

    def changes(places):
        return sum(a != b for a, b in pairwise(places))

    assert changes(order(4)[4:]) == 6 * 4 - 1
    assert changes(order(2)[4:]) == 3 * 4 - 1


def test_it_takes_about_the_time_it_is_given():
    runtime = FakeRuntime(seconds=(0.1, 0.2, 0.3, 0.4))

    found = measure(runtime, range(4), batches=(1, 4), seconds=3.0, clock=runtime.clock)
    assert (len(found.times[0][1]), len(found.times[0][4])) == (5, 3)
    assert runtime.clock() < 25

    found = measure(FakeRuntime(runtime.clock), range(4), seconds=3.0, clock=runtime.clock)
    assert [len(found.times[place][1]) for place in range(4)] == [34, 30, 30, 30]  # 34 of 3 ms are a tenth of a second


def test_widths_are_not_built_again_and_again_when_that_takes_all_the_time():
    runtime = FakeRuntime(seconds=(0.1, 0.2, 0.4, 0.8), keep=2)

    found = measure(runtime, range(4), batches=(1, 8), seconds=3.0, clock=runtime.clock)

    places = [place for place, _ in runtime.runs[4:]]
    assert sum(a != b for a, b in pairwise(places)) == 3
    assert [(len(its[1]), len(its[8])) for its in found.times.values()] == [(5, 3)] * 4


def test_no_width_is_judged_by_its_first_moments():
    class Disturbed(FakeRuntime):
        def run(self, *inputs, at=None):
            self.slow = 1.5 if self.clock() < 2.0 else 1.0
            return super().run(*inputs, at=at)

    runtime = Disturbed(seconds=(0.0015, 0.05, 0.1, 0.2), keep=2)

    found = measure(runtime, range(4), batches=(8,), clock=runtime.clock)

    assert [found.expected(place, 1) for place in range(4)] == pytest.approx([0.0015, 0.05, 0.1, 0.2])
    assert len(found.times[0][1]) > 50
    assert found.batch(0, 8) == 1


def test_batches_are_as_large_as_pays_and_the_limit_allows():
    pays = profiled(FakeRuntime(gain=0.5), batches=(8,))
    idle = profiled(FakeRuntime(gain=0.0), batches=(8,))

    assert pays.batch(3, 8) == 8
    assert pays.batch(3, 8, limit=SECONDS[3] * 2.6) == 4
    assert pays.batch(3, 1) == 1
    assert idle.batch(3, 8) == 1
    speed = pays.speed(3, 95, most=8)
    assert (speed.drain, speed.together) == pytest.approx((SECONDS[3] * 4.5 / 8, SECONDS[3] * 4.5))


def test_tails_of_batches_are_theirs():
    times = {0: {1: (10.0, 12.0, 20.0), 4: (22.0, 24.0, 60.0)}}
    found = Profile(names=("1.0",), times=times)

    assert [found.tail(0, examples, 50) for examples in (1, 2, 4, 8)] == pytest.approx([0.012, 0.016, 0.024, 0.048])
    assert found.tail(0, 4, 100) == pytest.approx(0.06)


def test_a_profile_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second, other = FakeRuntime(), FakeRuntime(), FakeRuntime(digest="another file")

    measured, read = profiled(first, cache=True), profiled(second, cache=True)

    assert read == measured
    assert first.runs
    assert not second.runs
    [file] = tmp_path.rglob("*.json")
    assert file == cached_path(key_of(first, threads=1, batches=(1,)))
    profiled(other, cache=True)
    assert other.runs
    assert len(list(tmp_path.rglob("*.json"))) == 2


@pytest.mark.parametrize("changed", [{"threads": 2}, {"batches": (1, 8)}])
def test_what_the_times_depend_on_is_in_the_key(changed):
    runtime = FakeRuntime()

    plain = {"threads": 1, "batches": (1,)}
    assert key_of(runtime, **{**plain, **changed}) != key_of(runtime, **plain)


def test_a_quota_of_time_is_in_the_key(monkeypatch):
    runtime = FakeRuntime()
    keys = []
    for quota in (None, 0.5):
        monkeypatch.setattr("slimmable.runtime.profile.cpu_quota", lambda quota=quota: quota)
        keys.append(key_of(runtime, threads=1, batches=(1,)))

    assert keys[0] != keys[1]


def damages(text):
    found = json.loads(text)
    yield ""
    yield text[: len(text) // 2]
    yield "[]"
    yield "\x00"
    yield "[" * 100_000
    for times in ([], ["fast"], [0.0], [-1.0], [float("nan")], None, {}):
        yield json.dumps({**found, "milliseconds": {**found["milliseconds"], "0.5": {"1": times}}})
    yield json.dumps({**found, "milliseconds": {"0.25": found["milliseconds"]["0.25"]}})
    yield json.dumps({**found, "key": {**found["key"], "device": "another"}})


def test_a_damaged_profile_is_taken_anew(tmp_path):
    path = tmp_path / "profile.json"
    sound = profiled(FakeRuntime(), cache=path)
    text = path.read_text()

    for damaged in damages(text):
        path.write_text(damaged)
        runtime = FakeRuntime()
        assert profiled(runtime, cache=path) == sound
        assert runtime.runs
        assert path.read_text() == text


def test_times_of_a_busy_device_are_used_but_not_kept(tmp_path, caplog):
    class Busy(FakeRuntime):
        def run(self, *inputs, at=None):
            self.slow = 1.0 if len(self.runs) % 7 == 0 else 9.0
            return super().run(*inputs, at=at)

    found = profiled(Busy(), cache=tmp_path / "profile.json")

    assert found.disturbed
    assert found.expected(3, 1) == pytest.approx(SECONDS[3])
    assert "was busy" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")

    profiled(FakeRuntime(), cache=tmp_path / "file" / "profile.json")

    assert "cannot be kept" in caplog.text


def test_made_up_inputs_fit_the_network():
    class Two:
        name, shape, dtype = "x", (None, 3, None), "int64"

    [whole] = examples([Two()], 4)

    assert (whole.shape, whole.dtype) == ((4, 3, 1), np.int64)


def test_real_time_is_the_default():
    runtime = FakeRuntime(RealClock(), seconds=(0.001, 0.002, 0.003, 0.004))

    found = measure(runtime, [0, 3], rounds=5)

    assert 1 <= found.milliseconds(0) <= found.milliseconds(3)
    assert isinstance(found, Profile)
    assert VirtualClock()() == 0
