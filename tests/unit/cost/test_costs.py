"""Costs by name are the methods of the cost model, with their units."""

import numpy as np
import pytest

from slimmable import CostModel
from slimmable.cost.costs import COSTS, NamedCost, closed_form
from slimmable.errors import CostError
from tests.unit.cost.networks import joined


@pytest.mark.parametrize(
    ("name", "unit", "method"),
    [
        ("macs", "MACs", "macs"),
        ("parameters", "parameters", "parameters"),
        ("activations", "bytes", "activation_bytes"),
        ("memory", "bytes", "memory_bytes"),
        ("peak_memory", "bytes", "peak_memory_bytes"),
    ],
)
def test_a_cost_by_name_is_that_of_the_cost_model(name, unit, method):
    net = joined()
    cost, widths = closed_form(net, name), [net.space.smallest, net.space.largest]

    assert (cost.name, cost.unit) == (name, unit)
    assert cost(widths).tolist() == getattr(CostModel(net), method)(widths).tolist()


def test_every_name_is_tested_and_another_is_refused():
    assert list(COSTS) == ["macs", "parameters", "activations", "memory", "peak_memory"]
    with pytest.raises(CostError, match=r"there is no cost called 'latency'; expected one of macs, .*or a measured"):
        closed_form(joined(), "latency")


def test_a_cost_of_the_user_s_own_is_its_function():
    net = joined()
    cost = NamedCost(name="channels", unit="", of=lambda many: np.array([sum(each.channels) for each in many]))

    assert cost([net.space.largest]).tolist() == [sum(net.space.largest.channels)]
