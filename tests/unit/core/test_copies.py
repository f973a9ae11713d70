"""A converted network can be copied like any module."""

import copy

import torch
from torch import nn

import slimmable
from slimmable.core.checkpoint import network_tensors
from tests.unit.core.oracle import flat, images


def test_a_copy_has_weights_and_widths_of_its_own():
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1))
    net = slimmable.convert(plain, images()).train()
    net.set(net.space.smallest)

    other = copy.deepcopy(net)

    assert other.widths == net.widths
    torch.testing.assert_close(other(images()), net(images()), rtol=0, atol=0)
    other.set(other.space.largest)
    with torch.no_grad():
        other.model[0].weight.zero_()
    assert net.widths == net.space.smallest
    assert net(images()).abs().max() > 0
    assert other.report == net.report
    ours, theirs = ({tensor.data_ptr() for tensor in flat(network_tensors(each))} for each in (net, other))
    assert ours.isdisjoint(theirs)


def test_a_copy_of_a_copy_trains_apart():
    net = slimmable.convert(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.zeros(1, 4))
    other = copy.deepcopy(copy.deepcopy(net))
    with other.at(other.space.smallest), other.shared_gradients() as commit:
        other(torch.ones(2, 4)).sum().backward()
        commit()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in other.parameters())
