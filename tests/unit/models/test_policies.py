"""The networks that act."""

import pytest
import torch

import slimmable
from slimmable.core.space import make_divisible
from slimmable.errors import RecipeError
from slimmable.models.policies import build_policy, frame_policy, vector_policy


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_costs_are_those_of_the_formula(width):
    a, b, c, d = (make_divisible(base * width, 8) for base in (32, 64, 32, 512))
    net = slimmable.convert(frame_policy(4, width=width), (torch.rand(2, 4, 84, 84),))
    expected = 400 * 64 * 4 * a + 81 * 16 * a * b + 49 * (9 * b * c + c * d) + d * 5
    assert slimmable.macs(net, net.space.largest) == expected

    h = make_divisible(64 * width, 8)
    net = slimmable.convert(vector_policy(3, numbers=5, width=width), (torch.rand(2, 5),))
    assert slimmable.macs(net, net.space.largest) == 2 * h * (5 + h) + h * 4


@pytest.mark.parametrize(
    ("name", "observation", "groups"), [("cnn", (4, 84, 84), 4), ("mlp", (6,), 4)], ids=["cnn", "mlp"]
)
def test_it_runs_at_any_width_as_a_network_built_that_wide(name, observation, groups):
    plain = build_policy(name, observation=observation, actions=3)
    seen = torch.rand(5, *observation) * 255
    net = slimmable.convert(plain, (seen[:2],), min_ratio=0.25).eval()

    assert len(net.space.groups) == groups
    for ratio in (0.25, 0.5, 0.75, 1.0):
        widths = net.space.uniform(ratio)
        narrow = build_policy(name, observation=observation, actions=3, width=ratio).eval()
        narrow.load_state_dict(net.extract(widths).state_dict())
        with torch.no_grad(), net.at(widths):
            logits, values = net(seen)
            assert logits.shape == (5, 3)
            assert values.shape == (5, 1)
            for found, expected in zip((logits, values), narrow(seen), strict=True):
                torch.testing.assert_close(found, expected)


def test_at_first_all_actions_are_about_alike():
    torch.manual_seed(0)
    for net, size in ((frame_policy(4), (4, 84, 84)), (vector_policy(4, numbers=7), (7,))):
        with torch.no_grad():
            chances = net(torch.rand(16, *size) * 255)[0].softmax(1)
        assert (chances - 0.25).abs().max() < 0.05


def test_a_network_of_the_user():
    net = build_policy("slimmable:mobilenet_v1_cifar", observation=(3, 32, 32), actions=7, width=0.25)

    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "observation", "message"),
    [
        ("cnn", (3,), "cnn sees frames of 84x84 pixels; these observations are 3"),
        ("cnn", (4, 64, 64), "these observations are 4x64x64"),
        ("mlp", (4, 84, 84), "mlp sees a row of numbers; these observations are 4x84x84"),
        ("mlp", (), "single numbers"),
        ("rnn", (4,), "no policy 'rnn'; expected cnn, mlp or module:function"),
    ],
)
def test_networks_that_do_not_suit(name, observation, message):
    with pytest.raises(RecipeError, match=message):
        build_policy(name, observation=observation, actions=2)
