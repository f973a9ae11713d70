"""The latency model is additive, pairwise and monotone, and finds hidden models of its class."""

import json
from itertools import combinations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable import CostModel, SlimmableModel, Widths
from slimmable.cost import latency
from slimmable.cost.analytic import channels_of
from slimmable.cost.features import Features, features
from slimmable.cost.latency import LatencyModel
from slimmable.cost.timing import Timing
from slimmable.errors import CheckpointError, CostError, WidthError
from tests.unit.cost.networks import NETWORKS

NETS = {name: make() for name, make in NETWORKS.items()}


def drawn(net: SlimmableModel, count: int, seed: int = 0) -> list[Widths]:
    generator = Random(seed)
    return [net.space.random(generator) for _ in range(count)]


def timed(widths_list: list[Widths], times: np.ndarray) -> list[Timing]:
    return [
        Timing(widths=widths, milliseconds=float(time), low=float(time), high=float(time))
        for widths, time in zip(widths_list, times, strict=True)
    ]


def hidden(net: SlimmableModel, widths_list: list[Widths], seed: int = 0, own: bool = True) -> np.ndarray:
    """Times of a random model of the class."""
    found = Features(features(net))
    values = found(channels_of(net.space, widths_list))
    largest = found(channels_of(net.space, [net.space.largest]))[0]
    weights = np.random.default_rng(seed).exponential(size=len(largest)) / largest
    return values @ np.where(found.own & (not own), 0, weights)


def noisy(net: SlimmableModel, count: int = 40) -> list[Timing]:
    widths_list = drawn(net, count)
    noise = np.exp(np.random.default_rng(1).normal(0, 0.2, count))
    return timed(widths_list, hidden(net, widths_list) * noise)


MODELS = {name: LatencyModel.fit(net, noisy(net)) for name, net in NETS.items()}


@pytest.mark.parametrize("own", [False, True], ids=["kinds alike", "layers differ"])
@pytest.mark.parametrize("name", NETS)
def test_a_hidden_model_is_found(name, own):
    net = NETS[name]
    seen, others = drawn(net, 200), drawn(net, 50, seed=1)

    model = LatencyModel.fit(
        net, timed(seen, hidden(net, seen, own=own)), held_out=timed(others, hidden(net, others, own=own))
    )

    assert model(others) == pytest.approx(hidden(net, others, own=own), rel=1e-6)
    assert model.error < 1e-4


@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
def test_more_channels_never_cost_less(name, data):
    net, model = NETS[name], MODELS[name]
    pairs = [sorted(data.draw(st.lists(st.sampled_from(g.choices), min_size=2, max_size=2))) for g in net.space.groups]

    narrow, wide = model([net.space.widths([pair[side] for pair in pairs]) for side in (0, 1)])

    assert narrow <= wide * (1 + 1e-12)


@pytest.mark.parametrize("name", NETS)
def test_no_term_joins_three_groups(name):
    net, model = NETS[name], MODELS[name]
    for places in combinations(range(len(net.space.groups)), 3):
        corners = []
        for corner in product((0, -1), repeat=3):
            channels = list(net.space.smallest.channels)
            for place, side in zip(places, corner, strict=True):
                channels[place] = net.space.groups[place].choices[side]
            corners.append(net.space.widths(channels))
        signs = [(-1) ** sum(corner) for corner in product((0, 1), repeat=3)]

        # What remains of a sum of functions of two variables in its third mixed difference is rounding.
        assert abs(model(corners) @ signs) < 1e-9 * model([net.space.largest])[0]


@pytest.mark.parametrize("name", NETS)
def test_work_is_what_the_cost_model_counts(name):
    net = NETS[name]
    widths_list = drawn(net, 5)
    own = [feature for feature in features(net) if feature.own and feature.name.endswith("work by 1")]
    axis = net.grouping.axis

    macs = Features(own)(channels_of(net.space, widths_list)).sum(1)
    varies = [any(axis(layout).varies for layout in term.layouts) for _, term in net.analysis.macs]

    assert all(varies)
    assert macs == pytest.approx(CostModel(net).macs(widths_list) * net.analysis.trace.examples)


def test_many_widths_at_once_are_told_as_one_by_one(monkeypatch):
    net, model = NETS["digits"], MODELS["digits"]
    widths_list = drawn(net, 20)
    single = [model([widths])[0] for widths in widths_list]

    monkeypatch.setattr(latency, "_ROWS", 7)

    assert model(widths_list) == pytest.approx(single, rel=1e-12)
    assert model([]).shape == (0,)


def test_the_error_is_that_of_the_widths_held_out():
    net = NETS["digits"]
    held_out = noisy(net, 60)[40:]

    model = LatencyModel.fit(net, noisy(net), held_out=held_out, device={"processor": "mine"})

    told = [model([timing.widths])[0] for timing in held_out]
    wrong = [abs(own - timing.milliseconds) / timing.milliseconds for own, timing in zip(told, held_out, strict=True)]
    assert model.error == pytest.approx(100 * sum(wrong) / len(wrong))
    assert model.device == {"processor": "mine"}
    assert (model.name, model.unit) == ("latency", "ms")
    assert 0 < MODELS["digits"].error < 100  # of the cross-validation


def test_a_model_comes_back_from_its_file(tmp_path):
    net, model = NETS["joined"], MODELS["joined"]

    model.save(tmp_path / "latency.json")
    again = LatencyModel.load(tmp_path / "latency.json", net.space)

    assert again == model
    assert np.array_equal(again(drawn(net, 9)), model(drawn(net, 9)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema version 99; expected a latency model"),
        ({"cost": "energy"}, "expected a latency model"),
        ({"space": {}}, "another network or of another range"),
        ({"terms": [{"milliseconds": 1}]}, "damaged latency model"),
        ({"terms": None}, "damaged"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, message):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(MODELS["joined"].to_json() | change))

    with pytest.raises(CheckpointError, match=message):
        LatencyModel.load(path, NETS["joined"].space)


def test_a_missing_an_unreadable_and_an_unfinished_file_are_told_apart(tmp_path):
    space = NETS["joined"].space
    with pytest.raises(CheckpointError, match="cannot be read as a latency model"):
        LatencyModel.load(tmp_path / "none.json", space)
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a latency model"):
        LatencyModel.load(tmp_path / "half.json", space)
    value = MODELS["joined"].to_json()
    del value["terms"]
    (tmp_path / "begun.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="timings, but no model yet; go on with slimmable profile --resume"):
        LatencyModel.load(tmp_path / "begun.json", space)


def test_too_few_or_impossible_timings_are_refused():
    net = NETS["digits"]

    with pytest.raises(CostError, match="at least 5 timings to fit a model to, got 4"):
        LatencyModel.fit(net, noisy(net)[:4])
    with pytest.raises(CostError, match="timings above 0 ms"):
        LatencyModel.fit(net, timed(drawn(net, 6), np.array([1.0, 2, 3, 4, 5, 0])))
    with pytest.raises(WidthError):
        LatencyModel.fit(net, noisy(NETS["joined"]))
    with pytest.raises(WidthError):
        MODELS["digits"]([NETS["joined"].space.smallest])


@pytest.mark.parametrize("name", NETS)
def test_a_cautious_model_is_the_model_with_the_margin_it_states(name):
    net = NETS[name]
    timings = noisy(net, 60)
    fitted, left_out = timings[:40], timings[40:]
    model = LatencyModel.fit(net, fitted, held_out=left_out)
    widths = [timing.widths for timing in left_out]
    times = np.array([timing.milliseconds for timing in left_out])
    errors = np.abs(model(widths) / times - 1) * 100
    assert model.spread == pytest.approx(np.quantile(errors, 0.95))
    assert model.error == pytest.approx(errors.mean())
    np.testing.assert_allclose(model.cautious()(widths), model(widths) * (1 + model.spread / 100))
