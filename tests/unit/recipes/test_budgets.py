"""Budgets as people write them, in every unit, and what is wrong with others."""

import pytest

from slimmable import CostModel
from slimmable.cost.costs import COSTS
from slimmable.cost.latency import LatencyModel
from slimmable.cost.timing import Timing
from slimmable.errors import CheckpointError, DataError, RecipeError
from slimmable.recipes.budgets import read_amount, read_budget, read_cost
from slimmable.recipes.profiling import named_network


@pytest.fixture(scope="module")
def net():
    return named_network("digits_cnn", input_size=None, options={})[0]


@pytest.fixture(scope="module")
def latency(net, tmp_path_factory):
    """A latency model's file, of a device that takes one millisecond for a million multiply-accumulates."""
    widths_list = [net.space.uniform(0.25 + 0.05 * step) for step in range(16)]
    times = (CostModel(net).macs(widths_list) / 1e6).tolist()
    timings = [Timing(widths=w, milliseconds=t, low=t, high=t) for w, t in zip(widths_list, times, strict=True)]
    path = tmp_path_factory.mktemp("latency") / "latency.json"
    LatencyModel.fit(net, timings).save(path)
    return path


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("50M", "MACs", 50e6),
        (" 3.35 M ", "MACs", 3.35e6),
        ("1e6", "MACs", 1e6),
        ("1.5e+3k", "MACs", 1.5e6),
        (".5G", "parameters", 5e8),
        ("7.", "parameters", 7.0),
        ("2MiB", "bytes", 2 * 1024**2),
        ("2MB", "bytes", 2e6),
        ("3 kB", "bytes", 3000.0),
        ("1GiB", "bytes", 1024.0**3),
        ("12B", "bytes", 12.0),
        ("4ms", "ms", 4.0),
        ("250us", "ms", 0.25),
        ("0.5s", "ms", 500.0),
        (4, "ms", 4.0),
        (3354112.0, "MACs", 3354112.0),
        (1e22, "MACs", 1e22),
    ],
)
def test_amounts_are_read_in_the_unit_of_the_cost(text, unit, expected):
    assert read_amount(text, unit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *(("4ms", "MACs"), ("2MiB", "parameters"), ("3M", "bytes"), ("3M", "ms"), ("2mib", "bytes"), ("1m", "ms")),
        *((text, "MACs") for text in ("", "M", "-5", "+5", "1,5", "1e", "1 000", "5MM", "inf", "nan", "0x10")),
        (float("nan"), "ms"),
        (-3.0, "ms"),
    ],
)
def test_what_is_no_amount_of_a_unit_is_refused_with_its_suffixes(text, unit):
    with pytest.raises(RecipeError, match=f"is no amount of {unit}; expected a number, perhaps with ") as caught:
        read_amount(text, unit)
    assert {"MACs": "k, M, G", "parameters": "k, M, G", "ms": "us, ms, s"}.get(unit, "KiB, MiB") in str(caught.value)


@pytest.mark.parametrize("name", COSTS)
def test_a_budget_in_any_closed_form_is_that_cost_of_the_network(net, name):
    budget = read_budget(f" {name} <= 2k " if COSTS[name][0] != "bytes" else f"{name}<=2000B", net)

    widths = [net.space.smallest, net.space.uniform(0.6)]
    assert (budget.cost.name, budget.cost.unit, budget.most) == (name, COSTS[name][0], 2000.0)
    assert budget.cost(widths).tolist() == getattr(CostModel(net), COSTS[name][1])(widths).tolist()


def test_a_budget_in_latency_reads_the_model_of_a_profile(net, latency):
    budget = read_budget("latency<=800us", net, latency=latency)

    assert (budget.cost.unit, budget.most) == ("ms", 0.8)
    told, macs = budget.cost([net.space.uniform(0.7)]), CostModel(net).macs([net.space.uniform(0.7)])
    assert told == pytest.approx(macs / 1e6, rel=0.1)


def test_a_budget_in_latency_reads_a_table_of_the_user(net, tmp_path):
    ends = []
    for widths in (net.space.smallest, net.space.largest):
        with net.at(widths):
            modules = [(name, m) for name, m in net.model.named_modules() if getattr(m, "weight", None) is not None]
            ends.append({name: tuple(m.weight.shape[:2]) for name, m in modules if m.weight.dim() > 1})
    lines = ["module,in_channels,out_channels,milliseconds", "network,,,0.5"]
    for name, (out, into) in ends[0].items():
        outs, intos = {out, ends[1][name][0]}, {into, ends[1][name][1]}
        lines += [f"{name},{i},{o},{i * o / 1e4}" for i in intos for o in outs]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")

    cost = read_budget("latency<=3", net, latency=str(path)).cost

    expected = [0.5 + sum(i * o / 1e4 for o, i in layers.values()) for layers in ends]
    assert cost([net.space.smallest, net.space.largest]) == pytest.approx(expected)
    path.write_text("a,b\n")
    with pytest.raises(DataError, match="has columns"):
        read_cost("latency", net, latency=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs<50M", r"'macs<50M' is no budget; expected COST<=NUMBER, such as macs<=50M"),
        ("macs", "is no budget"),
        ("", "is no budget"),
        ("<=4", "is no budget"),
        ("macs<=", "is no budget"),
        ("flops<=4M", "there is no cost called 'flops'; expected one of macs, .*, latency"),
        ("MACs<=4M", "there is no cost called 'MACs'"),
        ("macs<=4ms", "'4ms' is no amount of MACs"),
        ("memory<=2M", "'2M' is no amount of bytes"),
        ("latency<=4ms", "and none was named; measure this device first: slimmable profile RUN"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_is_expected(net, text, message):
    with pytest.raises(RecipeError, match=message):
        read_budget(text, net)


def test_a_latency_file_has_to_exist_and_to_be_of_this_network(net, latency, tmp_path):
    with pytest.raises(RecipeError, match=r"absent\.json does not exist; measure this device first"):
        read_budget("latency<=4ms", net, latency=tmp_path / "absent.json")
    other = named_network("digits_cnn", input_size=None, options={"divisor": 16})[0]
    with pytest.raises(CheckpointError):
        read_budget("latency<=4ms", other, latency=latency)
