"""Timings are those of the widths asked for, brought to one scale, and leave nothing behind."""

import gc
import statistics
from random import Random

import pytest
import torch
from torch import nn

import slimmable
from slimmable import WidthSpace
from slimmable.cost import timing
from slimmable.cost.timing import Timing, device_record, lanes_last, measure_latency
from slimmable.errors import CalibrationError, CostError, WidthError
from tests.unit.cost.networks import attending, joined

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(scope="module")
def net():
    return joined()


def drawn(space: WidthSpace, count: int) -> list[slimmable.Widths]:
    generator = Random(0)
    return [space.random(generator) for _ in range(count)]


def test_wider_takes_longer():
    large = slimmable.convert(
        nn.Sequential(nn.Linear(64, 4096), nn.Linear(4096, 64)), torch.zeros(1, 64), min_ratio=0.01
    )

    narrow, wide = measure_latency(
        large, [large.space.smallest, large.space.largest], torch.zeros(64, 64), rounds=5, threads=1, clock="cpu"
    )

    assert 0 < narrow.low <= narrow.milliseconds <= narrow.high
    assert wide.milliseconds > 3 * narrow.milliseconds


def test_what_a_round_or_a_block_has_in_common_is_taken_out(net, monkeypatch):
    times = {widths: 1 + sum(widths.channels) / 8 for widths in drawn(net.space, 12)}
    drift = Random(1)
    blocks = []

    def fake(networks, inputs, *, rounds, **_options):
        begun = sum(blocks)
        blocks.append(len(networks) - 1)
        took = list(times.values())
        own = [took[0], *took[begun : begun + len(networks) - 1]]
        slow = drift.uniform(1, 3)
        factors = [slow * drift.uniform(1, 1.5) for _ in range(rounds)]
        return [{place: [each * factor] for place, each in enumerate(own)} for factor in factors]

    monkeypatch.setattr(timing, "_interleaved", fake)
    monkeypatch.setattr(timing, "_BLOCK", 5)
    found = measure_latency(net, list(times), IMAGE)

    assert blocks == [5, 5, 2]
    scale = found[0].milliseconds / times[found[0].widths]
    for each in found:
        assert each.milliseconds == pytest.approx(scale * times[each.widths])
        assert each.high - each.low < 1e-9

    blocks.clear()
    again = measure_latency(net, list(times), IMAGE, anchor=found[0])
    assert [each.milliseconds for each in again] == pytest.approx([each.milliseconds for each in found])


def test_a_burst_in_one_round_changes_no_median():
    rounds = [{0: [2.0, 2.0], 1: [4.0], 2: [6.0]} for _ in range(5)]
    rounds[3] = {0: [20.0, 20.0], 1: [40.0], 2: [60.0]}

    assert timing._levelled(rounds) == [[2.0] * 10, [4.0] * 5, [6.0] * 5]


def test_every_round_begins_with_another_width_and_the_reference_comes_in_between():
    turns: list[int] = []

    class Noting(nn.Module):
        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

        def forward(self, _x: torch.Tensor) -> None:
            turns.append(self.place)

    found = timing._interleaved([Noting(place) for place in range(9)], (IMAGE,), rounds=2, warm_up=1, clock="wall")

    each = [turns[place] for place in range(0, len(turns), 2)]
    assert turns == [place for place in each for _ in range(2)]  # a pass to warm up, and one that is timed
    assert each == [0, 8, 1, 2, 3, 4, 5, 0, 6, 7, 0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 0, 2, 3, 4, 5, 6, 7, 0, 8, 1]
    assert [{place: len(times) for place, times in times_of.items()} for times_of in found] == 2 * [
        {0: 2} | dict.fromkeys(range(1, 9), 1)
    ]


def test_blocks_hold_no_more_than_their_bytes(net, monkeypatch):
    monkeypatch.setattr(timing, "_BLOCK_BYTES", 1)
    told: list[int] = []

    found = measure_latency(
        net, drawn(net.space, 3), IMAGE, rounds=1, progress=lambda timings: told.append(len(timings))
    )

    assert told == [1, 2, 3]
    assert [each.widths for each in found] == drawn(net.space, 3)
    assert all(each.low == each.milliseconds == each.high for each in found)


def test_the_network_and_the_process_come_back_as_they_were(net):
    known, stale = net.space.smallest, net.space.uniform(0.5)
    images = [torch.randn(8, 3, 8, 8)]
    slimmable.calibrate(net, images, [stale])
    with torch.no_grad():
        net.model.head.bias += 1
    slimmable.calibrate(net, images, [known])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items() if isinstance(tensor, torch.Tensor)}
    state = (net.widths, net.calibrated, net.stored, torch.get_num_threads(), gc.isenabled(), net.training)

    def stop(_timings):
        assert torch.get_num_threads() == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_latency(net, [known, stale, *drawn(net.space, 2)], IMAGE, rounds=1, threads=2, progress=stop)

    assert (net.widths, net.calibrated, net.stored, torch.get_num_threads(), gc.isenabled(), net.training) == state
    after = net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_inputs_may_be_several_and_of_any_shape():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x + y))

    inputs = (torch.zeros(2, 4), torch.zeros(2, 4))
    net = slimmable.convert(Sum(), inputs)
    assert measure_latency(net, [net.space.smallest], inputs, rounds=1)[0].milliseconds > 0

    net = attending()
    assert measure_latency(net, [net.space.smallest], torch.zeros(1, 6, 8), rounds=1)[0].milliseconds > 0


def test_channels_last_needs_images_and_multiples_of_eight(net):
    eights = slimmable.convert(nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 3)), IMAGE)

    assert lanes_last(eights.space, (IMAGE,))
    assert not lanes_last(eights.space, (IMAGE, torch.zeros(1, 4)))
    assert not lanes_last(net.space, (IMAGE,))  # steps of 4
    plain = timing._plain(eights, eights.space.largest, True)
    assert plain[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert device_record(IMAGE, eights.space, threads=3)["threads"] == 3


def test_batch_norm_is_folded(net):
    plain = timing._plain(net, net.space.smallest, False)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


def test_a_timing_comes_back_from_json(net):
    each = Timing(widths=net.space.smallest, milliseconds=2.0, low=1.5, high=2.5)

    assert Timing.from_json(each.to_json(), net.space) == each
    with pytest.raises(WidthError):
        Timing.from_json(each.to_json() | {"channels": [1]}, net.space)


@pytest.mark.parametrize(
    ("count", "options", "error", "message"),
    [
        (0, {}, CostError, "expected widths to time and at least one round, got 0 and 15"),
        (1, {"rounds": 0}, CostError, "got 1 and 0"),
        (1, {"clock": "cpu", "threads": 2}, CostError, "use threads=1, or the wall clock"),
    ],
)
def test_what_cannot_be_measured_is_said(net, count, options, error, message):
    with pytest.raises(error, match=message):
        measure_latency(net, [net.space.smallest] * count, IMAGE, **options)


def test_widths_of_another_network_are_refused(net):
    with pytest.raises(WidthError, match="another space"):
        measure_latency(net, [attending().space.smallest], IMAGE)


def test_other_widths_than_its_switches_are_refused():
    net = switched()

    with pytest.raises(WidthError, match="not a switch"):
        measure_latency(net, [net.space.smallest], IMAGE)


def test_a_switch_that_training_has_not_run_is_timed_all_the_same():
    net = switched()
    known = net.calibrated
    assert net.switches[0] not in known

    found = measure_latency(net, net.switches, IMAGE, rounds=1)

    assert [each.widths for each in found] == list(net.switches)
    assert net.calibrated == known
    with pytest.raises(CalibrationError, match="no statistics"):
        net.extract(net.switches[0])


def switched() -> slimmable.SlimmableModel:
    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 4, 1))
    return slimmable.convert(plain.eval(), IMAGE, switches=(0.5, 1.0))


def test_quartiles_are_those_of_the_standard_library():
    times = [5.0, 1.0, 4.0, 2.0, 3.0]

    found = timing._timing(joined().space.smallest, times, 2.0)

    assert [found.low, found.milliseconds, found.high] == [
        2 * q for q in statistics.quantiles(times, method="inclusive")
    ]
