"""What batch norm knows of each width: never a wrong number, and never a lost one."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.errors import CalibrationError, CheckpointError
from tests.unit.core.oracle import assert_same, images, shaken

IMAGES = images(size=8, batch=6)
BATCHES = [images(size=8, batch=size, seed=size) for size in (6, 4, 5)]


def network(a: int = 32, b: int = 40, **norm: Any) -> nn.Module:
    """Two convolutions with batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, a, 3), nn.BatchNorm2d(a, **norm), nn.ReLU(), nn.Conv2d(a, b, 1), nn.BatchNorm2d(b, **norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, 5),
    )  # fmt: skip


@cache
def _converted(options: str) -> SlimmableModel:
    return slimmable.convert(shaken(network()).eval(), IMAGES, **OPTIONS[options])


OPTIONS: dict[str, dict[str, Any]] = {
    "calibrated": {"max_ratio": 1.5},
    "private": {"switches": (1.0, 0.75, 0.25)},
    "naive": {"batch_norm": "naive"},
}


def converted(options: str = "calibrated") -> SlimmableModel:
    return copy.deepcopy(_converted(options))


def evaluated(net: SlimmableModel, widths: Widths, x: Tensor = IMAGES) -> Tensor:
    with torch.no_grad(), net.at(widths):
        return net.eval()(x)


def trained(net: SlimmableModel, widths: Widths, batches: list[Tensor]) -> None:
    """Forward passes in training, without a step."""
    net.train()
    for batch in batches:
        with torch.no_grad(), net.at(widths):
            net(batch)


def tables(net: SlimmableModel) -> dict[Widths, dict[str, Tensor]]:
    return {widths: {k: v.clone() for k, v in net.table(widths).state_dict().items()} for widths in net.stored}


def test_a_fresh_conversion_knows_the_given_width_alone():
    net = converted()
    assert net.calibrated == (net.space.base,)
    assert set(net.tracked) == {net.space.largest, net.space.smallest}
    assert net.has_batch_norm
    assert net.batch_norm == "calibrated"
    assert_same(evaluated(net, net.space.base), shaken(network()).eval()(IMAGES).detach())


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.5])
def test_a_width_that_was_never_measured_is_an_error_that_tells_the_cure(ratio):
    net = converted()
    with pytest.raises(CalibrationError) as error:
        evaluated(net, net.space.uniform(ratio))
    assert f"no statistics for {net.space.uniform(ratio)}" in str(error.value)
    assert "it knows 1 widths (Widths(0=32, 3=40))" in str(error.value)
    assert "Run slimmable.calibrate(net, batches, [widths])" in str(error.value)
    slimmable.calibrate(net, BATCHES, [net.space.uniform(ratio)])
    assert evaluated(net, net.space.uniform(ratio)).isfinite().all()


def test_in_training_any_width_runs_on_the_statistics_of_its_batch():
    net = converted().train()
    before = tables(net)
    widths = net.space.uniform(0.5)
    with net.at(widths):
        outputs = net(IMAGES).detach()
    for table, tensors in tables(net).items():
        assert_same(tensors, before[table])
    plain = network(*widths.channels)
    state = shaken(network()).state_dict()
    plain.load_state_dict(
        {k: state[k][tuple(slice(size) for size in tensor.shape)] for k, tensor in plain.state_dict().items()}
    )
    torch.testing.assert_close(outputs, plain.train()(IMAGES).detach())


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_widest_and_narrowest_are_followed_in_training_as_batch_norm_follows_its_own(momentum):
    model = shaken(network(momentum=momentum))
    net = slimmable.convert(model, IMAGES)
    for widths in (net.space.largest, net.space.smallest):
        plain = network(*widths.channels, momentum=momentum).train()
        state = model.state_dict()
        plain.load_state_dict(
            {k: state[k][tuple(slice(size) for size in tensor.shape)] for k, tensor in plain.state_dict().items()}
        )
        for batch in BATCHES:
            plain(batch)
        trained(net, widths, BATCHES)
        table = net.table(widths)
        assert table is not None
        for i, norm in enumerate((plain[1], plain[4])):
            torch.testing.assert_close(table.value(i, "mean"), norm.running_mean)
            torch.testing.assert_close(table.value(i, "var"), norm.running_var)
            assert table.value(i, "count") == len(BATCHES) + model.state_dict()["1.num_batches_tracked"]
        assert widths in net.calibrated
        torch.testing.assert_close(evaluated(net, widths), plain.eval()(IMAGES).detach())


CHANGES = {
    "in place": lambda net: _scale(net),
    "an optimizer's step": lambda net: _step(net, fused=False),
    "a fused optimizer's step": lambda net: _step(net, fused=True),
}


@torch.no_grad()
def _scale(net: SlimmableModel) -> None:
    next(net.parameters()).mul_(1.01)


def _step(net: SlimmableModel, *, fused: bool) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=fused)
    net.train()
    with net.at(net.space.largest):
        net(IMAGES).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_statistics_are_stale_once_the_weights_have_changed(change):
    net = converted()
    half, given = net.space.uniform(0.5), net.space.base
    slimmable.calibrate(net, BATCHES, [half])
    assert {half, given} <= set(net.calibrated)
    change(net)
    for widths in (half, given):
        assert widths not in net.calibrated
        with pytest.raises(CalibrationError, match=r"weights have changed since .*calibrate\(.*\) again"):
            evaluated(net, widths)
        with pytest.raises(CalibrationError, match="weights have changed"):
            net.extract(widths)
    slimmable.calibrate(net, BATCHES, [half, given])
    assert evaluated(net, half).isfinite().all()
    assert {half, given} <= set(net.calibrated)


def test_a_layer_that_no_width_changes_makes_statistics_stale_too():
    net = slimmable.convert(shaken(network()).eval(), IMAGES, exclude=["0"])
    half = net.space.uniform(0.5)
    slimmable.calibrate(net, BATCHES, [half])
    with torch.no_grad():
        net.model[0].weight.mul_(2)
    with pytest.raises(CalibrationError, match="weights have changed"):
        evaluated(net, half)


def _round(net: SlimmableModel, widths_list: Sequence[Widths], *, shared: bool, fused: bool = False) -> None:
    """One step of training at several widths."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=fused)
    net.train()
    with net.shared_gradients() if shared else nullcontext():
        for widths in widths_list:
            with net.at(widths):
                net(IMAGES).square().mean().backward()
    optimizer.step()


WAYS = {
    "by hand": {"shared": False},
    "shared gradients": {"shared": True},
    "shared gradients, fused": {"shared": True, "fused": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("switches", [None, (1.0, 0.75, 0.25)], ids=["tracked", "private"])
def test_statistics_are_followed_as_long_as_training_runs_at_their_width(switches, way):
    net = slimmable.convert(shaken(network()).eval(), IMAGES, switches=switches)
    widest, narrowest, random = net.space.largest, net.space.smallest, net.space.uniform(0.75)
    for _ in range(3):
        _round(net, (widest, random, random, narrowest), **way)
        assert {widest, narrowest} <= set(net.calibrated)
        evaluated(net, widest)
    _round(net, (narrowest,), **way)
    for _ in range(0 if switches is None else 10):  # a switch may be drawn now and then
        assert widest in net.calibrated
        _round(net, (narrowest,), **way)
    assert narrowest in net.calibrated
    assert widest not in net.calibrated
    with pytest.raises(CalibrationError, match=r"training has gone on without .*calibrate\(.*\) again"):
        evaluated(net, widest)
    with pytest.raises(CalibrationError, match="training has gone on"):
        net.extract(widest)
    fresh = slimmable.convert(shaken(network(), seed=1).eval(), IMAGES, switches=switches)
    fresh.load_state_dict(net.state_dict())
    for other in (copy.deepcopy(net), fresh):
        assert narrowest in other.calibrated
        with pytest.raises(CalibrationError, match="training has gone on"):
            evaluated(other, widest)
        slimmable.calibrate(other, BATCHES, [widest])
        assert evaluated(other, widest).isfinite().all()
    _round(net, (widest, narrowest), **way)
    assert {widest, narrowest} <= set(net.calibrated)


@pytest.mark.parametrize("switches", [None, (1.0, 0.5)], ids=["tracked", "private"])
def test_training_elsewhere_makes_given_statistics_stale_with_its_first_step(switches):
    net = slimmable.convert(shaken(network()).eval(), IMAGES, switches=switches)
    other = net.space.uniform(0.5)
    net.train()
    with net.at(other):
        net(IMAGES).square().mean().backward()
    assert net.space.base in net.calibrated, "no weight has changed yet"
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert net.space.base not in net.calibrated


def test_a_step_of_several_passes_by_hand_leaves_all_its_widths_current_at_any_time():
    net = converted()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    both = (net.space.largest, net.space.smallest)
    for _ in range(3):
        for widths in (*both, *both):  # gradients of two batches
            net.train()
            with net.at(widths):
                net(IMAGES).square().mean().backward()
            assert widths in net.calibrated
            evaluated(net, widths)
        optimizer.step()
        assert set(both) <= set(net.calibrated)


def test_evaluation_copying_and_moving_do_not_make_statistics_stale():
    net = converted()
    half = net.space.uniform(0.5)
    slimmable.calibrate(net, BATCHES, [half])
    expected = evaluated(net, half)
    trained(net, net.space.largest, BATCHES)  # without gradients: no step can follow
    assert_same(evaluated(net, half), expected)
    assert_same(evaluated(copy.deepcopy(net), half), expected)
    net.to(memory_format=torch.channels_last).to(memory_format=torch.contiguous_format)
    assert_same(evaluated(net, half), expected)
    net.double()
    torch.testing.assert_close(evaluated(net, half, IMAGES.double()).float(), expected)


def test_calibration_of_a_width_leaves_other_widths_alone():
    net = converted()
    slimmable.calibrate(net, BATCHES, [net.space.uniform(0.5)])
    before = tables(net)
    slimmable.calibrate(net, BATCHES[:1], [net.space.uniform(0.75), net.space.smallest])
    after = tables(net)
    for widths in (net.space.uniform(0.5), net.space.base, net.space.largest):
        assert_same(after[widths], before[widths])


def test_naive_sharing_evaluates_any_width_on_the_statistics_of_all():
    net = converted("naive")
    trained(net, net.space.largest, BATCHES[:1])
    trained(net, net.space.smallest, BATCHES[1:])
    state = net.state_dict()
    plain = network(*net.space.smallest.channels).eval()
    plain.load_state_dict(
        {k: state[f"model.{k}"][tuple(slice(n) for n in tensor.shape)] for k, tensor in plain.state_dict().items()}
    )
    torch.testing.assert_close(evaluated(net, net.space.smallest), plain(IMAGES).detach())
    assert state["model.1.num_batches_tracked"] == len(BATCHES)
    with pytest.raises(CalibrationError, match="naive"):
        slimmable.calibrate(net, BATCHES, [net.space.smallest])


def test_private_batch_norm_trains_each_switch_apart():
    net = converted("private")
    widest, middle, narrowest = net.switches
    names = [name for name, _ in net.named_parameters()]
    assert "model.1.weight" not in names
    assert sum(name.startswith("tables.") for name in names) == 3 * 4
    before = tables(net)
    net.train()
    with net.at(middle):
        net(IMAGES).square().sum().backward()
    with_gradient = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert {name for name in with_gradient if name.startswith("tables.")} == {
        f"tables.1.{name}_{i}" for name in ("weight", "bias") for i in range(2)
    }
    after = tables(net)
    for widths in (widest, narrowest):
        assert_same(after[widths], before[widths])
    assert not torch.equal(after[middle]["mean_0"], before[middle]["mean_0"])
    assert after[middle]["weight_0"].shape == (middle["0"],)


def test_a_switch_that_was_never_trained_is_an_error():
    net = converted("private")
    assert net.calibrated == (net.space.largest,)
    with pytest.raises(CalibrationError, match="no statistics for"):
        evaluated(net, net.switches[1])
    trained(net, net.switches[1], BATCHES)
    assert evaluated(net, net.switches[1]).isfinite().all()


def test_private_gains_and_shifts_are_used_and_extracted():
    net = converted("private")
    widths = net.switches[2]
    trained(net, widths, BATCHES)
    table = net.table(widths)
    assert table is not None
    with torch.no_grad():
        table.value(0, "weight").mul_(3)
        table.value(1, "bias").add_(1)
    plain = net.eval().extract(widths)
    assert_same(plain[1].weight, table.value(0, "weight"))
    assert_same(plain[4].bias, table.value(1, "bias"))
    assert_same(plain(IMAGES).detach(), evaluated(net, widths))


def test_a_layer_put_to_evaluation_inside_a_training_network_asks_for_statistics():
    """Fine-tuning with frozen batch norm."""
    net = converted().train()
    net.model[1].eval()
    with net.at(net.space.base):
        net(IMAGES)
    with net.at(net.space.smallest), pytest.raises(CalibrationError, match="no statistics for"):
        net(IMAGES)


def test_a_network_without_batch_norm_needs_none():
    net = slimmable.convert(nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.Linear(16, 2)), torch.zeros(2, 3))
    assert not net.has_batch_norm
    slimmable.calibrate(net, [], [net.space.smallest])
    assert net.stored == ()
    with net.at(net.space.smallest):
        net.eval()(torch.zeros(2, 3))


@pytest.mark.parametrize("options", OPTIONS)
def test_state_dict_passes_everything_to_a_fresh_conversion(options):
    net = converted(options)
    widths_list = list(net.switches) or [net.space.largest, net.space.uniform(0.5), net.space.smallest]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    for widths in net.switches:
        trained(net, widths, BATCHES)
    if options == "calibrated":
        slimmable.calibrate(net, BATCHES, widths_list)
    fresh = slimmable.convert(shaken(network(), seed=1).eval(), IMAGES, **OPTIONS[options])
    assert fresh.load_state_dict(copy.deepcopy(net.state_dict())) == ([], [])
    assert fresh.calibrated == net.calibrated
    assert fresh.switches == net.switches
    for widths in widths_list:
        assert_same(evaluated(fresh, widths), evaluated(net, widths))
    for ours, theirs in zip(fresh.state_dict().values(), net.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            assert_same(ours, theirs)


def test_state_passes_through_a_network_that_contains_a_converted_one():
    whole, fresh = (nn.ModuleDict({"body": converted(), "head": nn.Linear(5, 2)}) for _ in range(2))
    half = whole["body"].space.uniform(0.5)
    slimmable.calibrate(whole["body"], BATCHES, [half])
    fresh.load_state_dict(dict(whole.state_dict()))
    assert_same(evaluated(fresh["body"], half), evaluated(whole["body"], half))


def test_stale_statistics_stay_stale_when_they_are_loaded():
    net = converted()
    half = net.space.uniform(0.5)
    slimmable.calibrate(net, BATCHES, [half])
    _scale(net)
    fresh = converted()
    fresh.load_state_dict(net.state_dict())
    assert half not in fresh.calibrated
    with pytest.raises(CalibrationError):
        evaluated(fresh, half)


def test_loading_statistics_that_were_never_measured_forgets_those_of_before():
    net, fresh = converted(), converted()
    narrowest = net.space.smallest
    trained(net, narrowest, BATCHES)
    evaluated(net, narrowest)
    net.load_state_dict(fresh.state_dict())
    assert net.calibrated == fresh.calibrated
    with pytest.raises(CalibrationError, match="no statistics"):
        evaluated(net, narrowest)


def test_statistics_that_the_checkpoint_does_not_have_are_gone_after_loading():
    net, other = converted(), converted()
    half = net.space.uniform(0.5)
    slimmable.calibrate(net, BATCHES, [half])
    net.load_state_dict(other.state_dict())
    assert half not in net.stored
    with pytest.raises(CalibrationError, match="no statistics"):
        evaluated(net, half)


def test_a_checkpoint_of_another_batch_norm_or_space_is_refused():
    state = converted().state_dict()
    with pytest.raises(CheckpointError, match=r"space has ratios 0.25 to 1.5|width group is"):
        converted("naive").load_state_dict(state)
    same_space = slimmable.convert(network(), IMAGES, batch_norm="naive", max_ratio=1.5)
    with pytest.raises(CheckpointError, match="batch norm is calibrated, this network's is naive"):
        same_space.load_state_dict(state)
