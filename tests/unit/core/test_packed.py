"""Packed copies of weights, in evaluation without gradients: never stale, never many."""

import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=str)
def net(request) -> SlimmableModel:
    torch.manual_seed(0)
    grouped = nn.Conv2d(64, 64, 3, groups=2)  # its halves lie apart in whatever follows
    plain = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 1), grouped, nn.Conv2d(64, 4, 3))
    return slimmable.convert(plain, IMAGES).to(memory_format=request.param).eval()


def by_slicing(net: SlimmableModel) -> Tensor:
    with torch.enable_grad():
        return net(IMAGES).detach()


def test_copies_give_what_slices_give(net):
    for ratio in (0.25, 0.5, 0.75, 1.0):
        with torch.no_grad(), net.at(net.space.uniform(ratio)):
            expected = by_slicing(net)
            for _ in range(2):
                torch.testing.assert_close(net(IMAGES), expected)
            assert torch.equal(net(IMAGES), net.extract(net.widths)(IMAGES))


def test_weights_are_copied_once(net):
    with torch.no_grad(), net.at(net.space.smallest):
        net(IMAGES)
        before = [net.model[i].weight.data_ptr() for i in (2, 3, 4)]
        net(IMAGES)
        assert [net.model[i].weight.data_ptr() for i in (2, 3, 4)] == before
        assert all(net.model[i].weight.numel() < net.model[i]._parameters["weight"].numel() for i in (2, 3, 4))


def change_in_place(net: SlimmableModel) -> None:
    for parameter in net.parameters():
        parameter.mul_(1.5)


def change_by_assignment(net: SlimmableModel) -> None:
    for parameter in net.parameters():
        parameter.data = parameter.data * 1.5


def change_by_loading(net: SlimmableModel) -> None:
    state = {name: value * 1.5 if isinstance(value, Tensor) else value for name, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def change_by_a_fused_step(net: SlimmableModel) -> None:
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        net(IMAGES).square().mean().backward()
    net.eval()(IMAGES)
    net.train()
    optimizer.step()
    net.eval()


CHANGES = [change_in_place, change_by_assignment, change_by_loading, change_by_a_fused_step]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_copies_follow_the_weights(net, change):
    with torch.no_grad(), net.at(net.space.smallest):
        before = net(IMAGES)
        change(net)
        torch.testing.assert_close(net(IMAGES), by_slicing(net))
        assert not torch.allclose(net(IMAGES), before)


def test_copies_of_few_widths_are_held(net):
    held = net._state._packed
    with torch.no_grad():
        for widths in [net.space.uniform(0.25 + 0.05 * i) for i in range(15)]:
            with net.at(widths):
                net(IMAGES)
    assert 1 <= len(held) <= 4
    net.train()
    assert not held


def test_training_copies_nothing(net):
    net.train()
    with net.at(net.space.smallest):
        net(IMAGES).sum().backward()
        with torch.no_grad():
            net(IMAGES)
    assert not net._state._packed
