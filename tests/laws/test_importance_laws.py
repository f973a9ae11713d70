"""Laws of sorted channels, on networks that nobody designed.

Whatever the network and the order: full width computes what the given network does; a narrow width computes what the
given network does with the weights of all but the best units at zero; and undoing the permutation gives it back bit
for bit.
"""

import copy
from collections.abc import Mapping

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.core.importance import Units, permute, sort_units
from tests.laws.test_conversion_laws import IMAGES, networks, widths_of


def any_order(seed: int):
    """Scores at random, another for each group."""
    generator = torch.Generator().manual_seed(seed)

    def score(units: Units) -> Tensor:
        return torch.rand(units.count, generator=generator)

    return score


IMPORTANCE = st.one_of(st.sampled_from(["l1", "filters", "batch_norm"]), st.integers(0, 100).map(any_order))


def kept_units(net: SlimmableModel, widths: Widths) -> dict[int, list[int]]:
    """By variable the units of the given network that ``widths`` keep, read from the report alone."""
    order = {each.group: each.order for each in net.report.order}
    kept = {}
    for var, place in net.grouping.index.items():
        group = net.space.groups[place]
        count = widths[group.name] // net.grouping.units[var]
        kept[var] = list(order.get(group.name, range(net.analysis.variables[var])))[:count]
    return kept


def with_units_alone(model: nn.Module, net: SlimmableModel, kept: Mapping[int, list[int]]) -> nn.Module:
    """The given network with every weight at zero that does not belong to these units; positions one by one."""
    full = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            for dim, layout in enumerate(net.analysis.parameters[name]):
                position = 0
                for var, repeat in layout:
                    for unit in range(1 if var is None else net.analysis.variables[var]):
                        for _ in range(repeat):
                            if var is not None and unit not in kept[var]:
                                parameter.select(dim, position).zero_()
                            position += 1
                assert position == parameter.shape[dim]
    return full


@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(networks(), IMPORTANCE)
def test_a_sorted_network_is_the_given_one_with_its_best_units_first(model, importance):
    net = slimmable.convert(model, IMAGES, divisor=2, batch_norm="naive", importance=importance)

    assert len(net.report.order) == len(net.report.groups)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)
        for widths in widths_of(net):
            expected = with_units_alone(model, net, kept_units(net, widths))(IMAGES)
            with net.at(widths):
                torch.testing.assert_close(net(IMAGES), expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(networks(), st.integers(0, 100))
def test_values_only_change_places_and_the_way_back_is_exact(model, seed):
    net = slimmable.convert(model, IMAGES, divisor=2, batch_norm="naive")
    moved = copy.deepcopy(model)

    orders, _ = sort_units(moved, net.analysis, net.grouping, any_order(seed))

    before, after = model.state_dict(), moved.state_dict()
    for name in before:
        assert torch.equal(before[name].flatten().sort().values, after[name].flatten().sort().values)
    permute(moved, net.analysis, {var: order.argsort() for var, order in orders.items()})
    for name in before:
        assert torch.equal(before[name], moved.state_dict()[name])
