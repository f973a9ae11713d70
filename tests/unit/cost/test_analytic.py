"""Costs are those of one example, whatever the inputs are that the network was converted with."""

import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable import CostModel, SlimmableModel
from slimmable.cost.costs import COSTS


class Beside(nn.Module):
    """A batch, a table of positions that all examples share, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.places, self.head = nn.Linear(4, 32), nn.Linear(3, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, positions: Tensor, gain: Tensor) -> Tensor:
        return self.head((self.body(x) + self.places(positions)).relu() * gain)


def beside(batch: int) -> SlimmableModel:
    return slimmable.convert(Beside(), (torch.randn(batch, 5, 4), torch.randn(5, 3), torch.tensor(0.5)), divisor=4)


def all_costs(net: SlimmableModel) -> list[list[int]]:
    costs = CostModel(net)
    widths = [net.space.smallest, net.space.uniform(0.5), net.space.largest]
    return [getattr(costs, method)(widths).tolist() for _, method in COSTS.values()]


def test_a_scalar_and_positions_beside_the_batch_count_once():
    net = beside(8)
    for kept in (8, 20, 32):
        widths = net.space.widths((kept,))
        assert slimmable.macs(net, widths) == 5 * kept * (4 + 3 + 4)
        held = 5 * 3 * kept + 1  # both layers' outputs and their sum; of the inputs, the scalar alone is still to come
        assert slimmable.activation_bytes(net, widths) == 4 * held


def test_every_cost_of_a_batch_is_that_of_one_example():
    expected = all_costs(beside(1))
    for batch in (2, 8):
        assert all_costs(beside(batch)) == expected


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), (4,)),
        (lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 2, 1)), (3, 8, 8)),
    ],
    ids=["a vector", "an image"],
)
def test_inputs_without_a_batch_cost_what_a_batch_of_one_does(build, shape):
    torch.manual_seed(0)
    model = build().eval()
    alone, batch = (slimmable.convert(model, x) for x in (torch.randn(shape), torch.randn(1, *shape)))
    assert alone.space == batch.space
    assert all_costs(alone) == all_costs(batch)


def test_a_network_from_a_file_costs_the_same(tmp_path):
    net = beside(8)
    slimmable.save(net, tmp_path / "net.safetensors")
    assert all_costs(slimmable.load(tmp_path / "net.safetensors")) == all_costs(net)
