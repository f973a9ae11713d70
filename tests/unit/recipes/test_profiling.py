"""A profile grows block by block, goes on where it stopped, and ends as a model."""

import json
from dataclasses import replace

import pytest

from slimmable.cost import timing
from slimmable.cost.latency import LatencyModel
from slimmable.cost.timing import Timing
from slimmable.errors import CheckpointError, CostError
from slimmable.recipes import profiling
from slimmable.recipes.profiling import ProfileSettings, chosen, named_network, profile, uniform_widths

SETTINGS = ProfileSettings(count=10, held_out=4, rounds=2, threads=1)


@pytest.fixture(scope="module")
def digits():
    return named_network("digits_cnn", input_size=None, options={})


def test_a_profile_is_a_model_with_its_timings(digits, tmp_path):
    net, size = digits
    named = uniform_widths(net.space)
    seen = []

    found = profile(
        net, size, tmp_path / "latency.json", settings=SETTINGS, named=named, progress=lambda *done: seen.append(done)
    )

    value = json.loads((tmp_path / "latency.json").read_text())
    assert seen[-1] == (len(named) + 14, len(named) + 14)
    assert list(found.named) == [each.label for each in named]
    assert LatencyModel.load(tmp_path / "latency.json", net.space) == found.model
    left_out = [Timing.from_json(entry, net.space) for entry in value["timings"] if entry["held_out"]]
    told = found.model([each.widths for each in left_out])
    errors = sorted(abs(own / each.milliseconds - 1) * 100 for own, each in zip(told, left_out, strict=True))
    assert found.errors == pytest.approx(errors)
    assert found.model.error == pytest.approx(sum(errors) / 4)
    assert found.median_error == pytest.approx((errors[1] + errors[2]) / 2)
    assert value["device"]["threads"] == 1


def test_an_interrupted_profile_goes_on_where_it_stopped(digits, tmp_path, monkeypatch):
    (net, size), path = digits, tmp_path / "latency.json"
    monkeypatch.setattr(timing, "_BLOCK", 6)

    def stop(done, _total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(net, size, path, settings=SETTINGS, progress=stop)
    before = json.loads(path.read_text())["timings"]
    assert len(before) == 12
    with pytest.raises(CheckpointError, match="timings, but no model yet"):
        LatencyModel.load(path, net.space)
    for changed, what in ((replace(SETTINGS, rounds=3), "rounds"), (replace(SETTINGS, batch=2), "device")):
        with pytest.raises(CheckpointError, match=f"was made with another {what}; profile anew"):
            profile(net, size, path, settings=changed, resume=True)
    with pytest.raises(CheckpointError, match="timings of other widths"):
        profile(net, size, path, settings=replace(SETTINGS, seed=1), resume=True)

    profile(net, size, path, settings=SETTINGS, resume=True)

    after = json.loads(path.read_text())["timings"]
    assert [{key: entry[key] for key in before[0]} for entry in after[:12]] == before
    assert len(after) == 14

    def never(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(profiling, "measure_latency", never)
    profile(net, size, path, settings=SETTINGS, resume=True)  # there is nothing left to measure


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}'])
def test_a_damaged_file_is_not_taken_up(digits, tmp_path, text):
    (tmp_path / "latency.json").write_text(text)

    with pytest.raises(CheckpointError, match="profile anew, without --resume"):
        profile(*digits, tmp_path / "latency.json", settings=SETTINGS, resume=True)


def test_widths_held_out_are_never_fitted(digits):
    space = digits[0].space
    named = [each.widths for each in uniform_widths(space)]

    fitted, held_out = chosen(space, SETTINGS, named)

    assert fitted[: len(named)] == named
    assert (len(fitted), len(held_out)) == (len(named) + 10, 4)
    assert len({*fitted, *held_out}) == len(fitted) + len(held_out)
    assert chosen(space, SETTINGS, named) == (fitted, held_out)
    assert chosen(space, replace(SETTINGS, seed=1), named) != (fitted, held_out)


def test_kinds_of_widths_are_timed_among_each_other():
    first, second = [f"a{place}" for place in range(3)], [f"b{place}" for place in range(12)]

    order = profiling._spread(first, second)

    assert [order.index(each) for each in first] == [0, 5, 10]
    assert [each for each in order if each in second] == second


def test_a_small_space_shares_what_it_has():
    [net, _] = named_network("digits_cnn", input_size=None, options={"divisor": 32, "min_ratio": 0.5})
    fitted, held_out = chosen(net.space, ProfileSettings(count=400, held_out=100), [])

    assert len(held_out) == round((len(fitted) + len(held_out)) / 5)
    with pytest.raises(CostError, match="only 1 different widths were found"):
        chosen(named_network("digits_cnn", input_size=None, options={"min_ratio": 1.0})[0].space, SETTINGS, [])


def test_uniform_widths_begin_with_the_middle(digits):
    space = digits[0].space

    labels = [each.label for each in uniform_widths(space)]

    assert labels == ["0.625", "0.25", "0.375", "0.5", "0.75", "0.875", "1.0"]
    assert uniform_widths(space)[-1].widths == space.largest
