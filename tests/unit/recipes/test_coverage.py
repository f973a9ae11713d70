"""The row of one network: what is found, and that every law's breach is noticed."""

import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import slimmable
from slimmable.recipes.coverage import CoverageRow, Laws, counted_macs, cover, difference, rouse
from slimmable.record import jsonable

NETWORKS = """
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.branch[1].weight)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.branch(x)).mean((2, 3)))

def residual():
    return Residual(), (3, 8, 8)

def linear():
    return nn.Linear(8, 4), (8,)

def broken():
    return nn.Linear(8, 4), (3, 8, 9)
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    yield "my_networks"
    sys.modules.pop("my_networks", None)


@pytest.fixture
def laws():
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 3), nn.Flatten()),
    )
    inputs = torch.randn(2, 3, 8, 8)
    plain = rouse(plain.eval())
    return Laws(plain, slimmable.convert(plain, inputs), inputs)


def test_a_row_says_what_was_found(networks):
    row = cover("mine", f"{networks}:residual")

    found = row.found
    assert (row.family, row.faults) == ("mine", ())
    assert (found.elastic, found.layers, found.groups, found.input_size) == (3, 3, 1, (3, 8, 8))
    stem, branch, head = 27, 9, 4
    for macs, channels in zip(found.macs, (8, 16), strict=True):
        assert macs == 64 * (stem * channels + branch * channels**2) + head * channels
    for parameters, channels in zip(found.parameters, (8, 16), strict=True):
        assert parameters == (stem + 1) * channels + branch * channels**2 + 2 * channels + head * channels + 4
    assert found.fixed == ()
    assert found.deviation == 0
    assert found.seconds > 0


def test_a_row_says_why_layers_are_fixed(networks):
    row = cover("mine", f"{networks}:residual", options={"exclude": ["stem"]})

    assert row.found.elastic == 0
    assert row.found.fixed[0].startswith("1 layer: excluded by 'stem'")
    assert not row.faults


def test_a_network_without_any_width_breaks_no_law(networks):
    row = cover("mine", f"{networks}:linear")

    assert (row.found.elastic, row.found.groups, row.faults) == (0, 0, ())


def test_the_same_row_comes_again_and_leaves_the_generators_alone(networks):
    state = torch.get_rng_state()

    first, second = (cover("mine", f"{networks}:residual", input_size=(3, 12, 12)) for _ in range(2))

    assert first.found.input_size == (3, 12, 12)
    assert replace(first.found, seconds=0.0) == replace(second.found, seconds=0.0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("model", "message"),
    [("broken", "ConversionError"), ("nothing", "RecipeError: no model is called 'nothing'")],
)
def test_what_fails_is_in_the_row(networks, model, message):
    row = cover("mine", f"{networks}:{model}")

    assert row.found is None
    assert [fault.startswith(message) for fault in row.faults] == [True]


def test_a_row_comes_back_from_json(networks):
    for row in (cover("mine", f"{networks}:residual"), cover("mine", f"{networks}:broken")):
        assert CoverageRow.from_json(jsonable(row)) == row


def test_a_conversion_that_keeps_its_laws_has_no_faults(laws):
    assert laws.faults() == []
    assert laws.deviation == 0


def test_another_full_width_is_noticed(laws):
    with torch.no_grad():
        laws.net.model[5].bias += 1e-3

    assert laws.faults() == ["full width differs from the original"]


@pytest.mark.parametrize(("noise", "is_fault"), [(1e-3, True), (1e-6, False)])
def test_another_extracted_network_is_noticed(laws, monkeypatch, noise, is_fault):
    extract = laws.net.extract

    def another(widths):
        plain = extract(widths)
        with torch.no_grad():
            plain[5].bias += noise
        return plain

    monkeypatch.setattr(laws.net, "extract", another)
    faults = laws.faults()

    assert bool(faults) == is_fault
    assert all(fault.startswith("at the narrowest width: the extracted network differs by") for fault in faults)
    assert laws.deviation > 0


@pytest.mark.parametrize(("cost", "unit"), [("macs", "MACs"), ("parameters", "parameters")])
def test_another_cost_is_noticed(laws, monkeypatch, cost, unit):
    formula = getattr(laws.costs, cost)
    monkeypatch.setattr(laws.costs, cost, lambda widths: formula(widths) + 1)

    [fault] = laws.faults()
    own = formula([laws.net.space.smallest])[0]
    assert fault.startswith(f"at the narrowest width: {own + 1:,} {unit} by the formula, {own:,} ")
    assert re.search(r", and the like at [345] others$", fault), "drawn widths may be the same"


@pytest.mark.parametrize(("difference", "faults"), [(-1, 0), (1, 1)])
def test_layers_that_are_not_counted_may_be_missing_but_nothing_may_be_too_much(laws, monkeypatch, difference, faults):
    formula = laws.costs.macs
    monkeypatch.setattr(laws.net, "report", replace(laws.net.report, uncounted=("0",)))

    monkeypatch.setattr(laws.costs, "macs", lambda widths: formula(widths) + difference)

    assert len(laws.faults()) == faults


def test_an_error_at_one_width_is_told_and_the_others_are_tried(laws, monkeypatch):
    extract, smallest = laws.net.extract, laws.net.space.smallest

    def failing(widths):
        if widths == smallest:
            raise RuntimeError("odd")
        return extract(widths)

    monkeypatch.setattr(laws.net, "extract", failing)

    assert laws.faults() == ["at the narrowest width: RuntimeError: odd"]


def test_an_output_that_tells_nothing_is_a_fault(laws):
    with torch.no_grad():
        laws.net.model[5].weight.zero_()
    dead = Laws(laws.net.extract(laws.net.space.base), laws.net, laws.inputs)

    [fault] = dead.faults()
    assert "the output is that of full width" in fault

    with torch.no_grad():
        laws.net.model[5].weight.fill_(torch.nan)
    faults = Laws(laws.net.extract(laws.net.space.base), laws.net, laws.inputs).faults()
    assert faults[0].startswith("the original's output is not finite")


def test_rousing_leaves_no_dead_branch_and_touches_no_drawn_weight():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 8, bias=False))
    model.register_parameter("scale", nn.Parameter(torch.zeros(())))
    nn.init.zeros_(model[1].weight)
    drawn = model[2].weight.clone()

    assert rouse(model) is model

    assert model.scale != 0
    assert len(model[1].weight.unique()) == len(model[1].bias.unique()) == 8
    assert (model[1].running_var > 0).all()
    assert len(model[1].running_mean.unique()) == 8
    assert torch.equal(model[2].weight, drawn)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, 2.0], [1.0, 2.0, 3.0], float("inf")),
        ([1.0, float("nan")], [1.0, float("nan")], float("inf")),
        ([1.0], [float("inf")], float("inf")),
    ],
)
def test_difference_is_relative_to_the_largest_value(one, other, expected):
    assert difference(torch.tensor(one), torch.tensor(other)) == expected
    assert (
        difference({"a": [torch.zeros(1)], "b": torch.tensor(one)}, {"a": [torch.zeros(1)], "b": torch.tensor(other)})
        == expected
    )


def test_nothing_is_not_the_same_as_nothing():
    assert difference([], []) == float("inf")


def test_macs_are_counted_for_one_input():
    assert counted_macs(nn.Conv2d(4, 8, 3, bias=False), (4, 10, 10)) == 8 * 8 * 8 * 4 * 9
