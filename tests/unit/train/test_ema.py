"""The moving average against its definition."""

import shutil

import pytest
import torch
from torch import nn

from slimmable import calibrate
from slimmable.errors import CheckpointError
from slimmable.train import MovingAverage, TrainSettings
from tests.unit.train.test_loop import Watcher, same, state, train
from tests.unit.train.toy import ToyTask, toy_net


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def move(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
        net(torch.randn(5, 3, dtype=torch.float64))


def test_average_follows_its_recursion(net):
    average = MovingAverage(net, decay=0.3)
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for step in range(1, 8):
        move(net)
        average.update(net)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            mixed = decay * expected[name] + (1 - decay) * tensor
            expected[name] = mixed if tensor.is_floating_point() else tensor.clone()
    for name, tensor in average.tensors.items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_net_has_the_average_inside_the_block_only(net):
    average = MovingAverage(net, decay=0.5)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    move(net)
    moved = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in net.parameters()]

    def look_and_fail():
        with average.applied(net):
            assert all(torch.equal(tensor, start[name]) for name, tensor in net.state_dict().items())
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        look_and_fail()
    assert all(torch.equal(tensor, moved[name]) for name, tensor in net.state_dict().items())
    assert addresses == [parameter.data_ptr() for parameter in net.parameters()]


def test_another_network_s_average_is_refused(net):
    average = MovingAverage(net, decay=0.5)
    with pytest.raises(CheckpointError, match="another network"):
        average.restore(net, {"0.weight": torch.zeros(2, 3)}, steps=1)


def test_an_averaged_run_of_a_network_that_was_calibrated_before_is_resumed_to_the_bit(tmp_path):
    settings = TrainSettings(epochs=3, lr=0.05, ema_decay=0.9)

    def calibrated():
        net = toy_net()
        calibrate(net, ToyTask().calibration_batches(samples=36, seed=0), [net.space.uniform(0.75)])
        return net

    whole = calibrated()
    train(whole, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train(calibrated(), settings=settings, folder=tmp_path, observers=[Watcher(at=4)])

    for fresh in (toy_net(seed=3), calibrated()):
        copied = tmp_path / str(len(fresh.stored))
        shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("[0-9]"))
        train(fresh, settings=settings, folder=copied, resume=True)
        assert same(state(fresh), state(whole))
