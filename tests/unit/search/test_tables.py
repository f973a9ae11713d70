"""Costs as tables: equal to the cost itself at every choice, or refused."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import slimmable
from slimmable.cost.costs import COSTS, NamedCost, closed_form
from slimmable.errors import CostError, SearchError
from slimmable.models import build_model
from slimmable.search import Alternatives, additive


@pytest.fixture(scope="module")
def net():
    return slimmable.convert(
        build_model("slimmable:resnet20", num_classes=10).model,
        torch.randn(2, 3, 32, 32),
        tie=[["blocks.[012].conv1"], ["blocks.[345].conv1"], ["blocks.[678].conv1"]],
    )


@pytest.mark.parametrize("name", ["macs", "parameters"])
def test_tables_give_the_cost_at_random_choices(net, name):
    cost = closed_form(net, name)
    alternatives = Alternatives.of(net.space, most=5)
    tables = additive(cost, alternatives)
    generator = random.Random(3)
    for _ in range(50):
        choices = alternatives.draw(generator)
        assert tables(choices) == pytest.approx(float(cost([alternatives.widths(choices)])[0]), rel=1e-12)
        assert alternatives.choices(alternatives.widths(choices)) == choices


def test_search_space_of_the_multi_platform_paper():
    """FACTS of its section 4.1: 14 layers of 6, 11 and 12 times 14 choices, 2.345 to 102.70 million MACs."""
    plain = build_model("slimmable:mobilenet_v1_cifar", num_classes=100).model
    net = slimmable.convert(plain, torch.randn(2, 3, 32, 32), min_ratio=0.2, max_ratio=1.5)
    alternatives = Alternatives.of(net.space, most=14)
    assert alternatives.sizes == (6, 11, *[14] * 12)
    tables = additive(closed_form(net, "macs"), alternatives)
    assert tables([0] * 14) == 2_345_120
    assert tables([size - 1 for size in alternatives.sizes]) == 102_700_032


def test_a_cost_that_is_no_sum_is_refused(net):
    product = NamedCost(name="product", unit="", of=lambda many: np.array([np.prod(w.channels) / 1e6 for w in many]))
    with pytest.raises(SearchError, match="product is no sum of terms"):
        additive(product, Alternatives.of(net.space, most=3))
    with pytest.raises(SearchError, match="at least 2 choices"):
        Alternatives.of(net.space, most=1)
    with pytest.raises(CostError, match=f"expected one of {', '.join(COSTS)}"):
        closed_form(net, "flops")


def test_memory_holds_weights_and_live_activations():
    """A chain worked out by hand: two linear layers of 4 byte floats, an input of 8 and an output of 4 numbers."""
    plain = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4))
    net = slimmable.convert(plain, torch.zeros(1, 8))
    hidden = np.array([8, 32])
    widths = [net.space.smallest, net.space.largest]
    parameters = 9 * hidden + 4 * hidden + 4
    assert closed_form(net, "memory")(widths).tolist() == (4 * (parameters + hidden + 8)).tolist()
    assert closed_form(net, "peak_memory")(widths).tolist() == (4 * (9 * hidden + 8 + hidden)).tolist()
