"""Channels sorted by importance: against networks permuted by hand, score by score, and where order must stay."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.core.importance import Units, permute, sort_units
from slimmable.errors import ConversionError
from tests.unit.core.oracle import assert_same, images, shaken

IMAGES = images().double()


def falling(values: Sequence[float]) -> list[int]:
    """Where the values stand, largest first."""
    return sorted(range(len(values)), key=lambda place: -values[place])


def by_chance(units: Units) -> Tensor:
    """Scores that nobody could guess, the same whenever the group is asked for."""
    return torch.rand(units.count, generator=torch.Generator().manual_seed(len(units.group) + units.count))


def orders_of(net: SlimmableModel) -> dict[str, list[int]]:
    return {each.group: list(each.order) for each in net.report.order}


class Residual(nn.Module):
    """A residual block between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.head = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.conv2(F.relu(self.norm(self.conv1(x)))))


class Joined(nn.Module):
    """Two branches and the image, a depthwise convolution with two outputs each, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1)
        self.deep, self.head = nn.Conv2d(17, 34, 3, groups=17), nn.Linear(34 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.deep(torch.cat([self.a(x), self.b(x), x], 1))).flatten(1))


class Grouped(nn.Module):
    """A convolution in two groups, shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=2)
        self.shuffle, self.last = nn.ChannelShuffle(2), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shuffle(self.grouped(F.relu(self.first(x)))))


def residual_moves(stem: list[int], inner: list[int]) -> dict[str, dict[int, list[int]]]:
    moves: dict[str, dict[int, list[int]]] = {
        "stem.weight": {0: stem},
        "stem.bias": {0: stem},
        "conv1.weight": {0: inner, 1: stem},
        "conv1.bias": {0: inner},
        "conv2.weight": {0: stem, 1: inner},
        "conv2.bias": {0: stem},
        "head.weight": {1: stem},
    }
    for name in ("weight", "bias", "running_mean", "running_var"):
        moves[f"norm.{name}"] = {0: inner}
    return moves


def joined_moves(a: list[int], b: list[int]) -> dict[str, dict[int, list[int]]]:
    joined = [*a, *(8 + unit for unit in b), 14, 15, 16]
    deep = [2 * channel + which for channel in joined for which in range(2)]
    flat = [16 * channel + pixel for channel in deep for pixel in range(16)]
    return {
        "a.weight": {0: a},
        "a.bias": {0: a},
        "b.weight": {0: b},
        "b.bias": {0: b},
        "deep.weight": {0: deep},
        "deep.bias": {0: deep},
        "head.weight": {1: flat},
    }


def grouped_moves(first: list[int], inner: list[int]) -> dict[str, dict[int, list[int]]]:
    """The order of units is the same in both groups; the shuffle puts channel u of each group side by side."""
    out = [*inner, *(6 + unit for unit in inner)]
    both = [*first, *(4 + unit for unit in first)]
    shuffled = [2 * unit + group for unit in inner for group in range(2)]
    return {
        "first.weight": {0: both},
        "first.bias": {0: both},
        "grouped.weight": {0: out, 1: first},
        "grouped.bias": {0: out},
        "last.weight": {1: shuffled},
    }


NETWORKS = {
    "residual": (Residual, ("stem", "conv1"), (8, 12), residual_moves),
    "joined": (Joined, ("a", "b"), (8, 6), joined_moves),
    "grouped": (Grouped, ("first", "grouped"), (4, 6), grouped_moves),
}


@pytest.mark.parametrize(("build", "groups", "units", "moves"), NETWORKS.values(), ids=NETWORKS)
def test_every_tensor_is_permuted_as_by_hand(build, groups, units, moves):
    model = shaken(build()).double().eval()
    scores = {group: by_chance(Units(group=group, count=n)) for group, n in zip(groups, units, strict=True)}
    orders = [falling(scores[group].tolist()) for group in groups]
    expected = {}
    for name, tensor in model.state_dict().items():
        expected[name] = tensor.clone()
        for dim, order in moves(*orders).get(name, {}).items():
            source = expected[name].clone()
            for place, before in enumerate(order):
                expected[name].select(dim, place).copy_(source.select(dim, before))

    net = slimmable.convert(model, IMAGES, divisor=1, batch_norm="naive", importance=by_chance)

    assert orders_of(net) == dict(zip(groups, orders, strict=True))
    assert any(order != sorted(order) for order in orders)
    found = {
        name.removeprefix("model."): tensor for name, tensor in net.state_dict().items() if name.startswith("model.")
    }
    assert_same({name: found[name] for name in expected}, expected)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("build", [build for build, *_ in NETWORKS.values()], ids=NETWORKS)
def test_nothing_but_the_order_changes_and_the_way_back_is_exact(build):
    model = shaken(build()).eval()
    net = slimmable.convert(model, IMAGES.float(), divisor=1)
    moved = copy.deepcopy(model)

    orders, _ = sort_units(moved, net.analysis, net.grouping, by_chance)

    for (name, before), after in zip(model.state_dict().items(), moved.state_dict().values(), strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values), name
    assert not torch.equal(next(model.parameters()), next(moved.parameters()))
    permute(moved, net.analysis, {var: order.argsort() for var, order in orders.items()})
    assert_same(moved.state_dict(), model.state_dict())


def test_without_importance_nothing_moves_and_nothing_is_said():
    model = shaken(Residual()).double().eval()
    net = slimmable.convert(model, IMAGES, divisor=1)
    assert torch.equal(net.model.conv1.weight, model.conv1.weight)
    assert net.report.order == ()
    assert "sorted" not in str(net.report)


def test_the_given_network_stays_as_it_was():
    model = shaken(Residual()).double()
    before = copy.deepcopy(model.state_dict())
    slimmable.convert(model, IMAGES, divisor=1, importance="l1")
    assert_same(model.state_dict(), before)


def test_a_tensor_under_two_names_is_permuted_once():
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2)).double()
    model[3].weight = model[1].weight
    x = torch.randn(3, 4, dtype=torch.float64)

    net = slimmable.convert(model, x, divisor=1, importance=by_chance)

    assert net.model[3]._parameters["weight"] is net.model[1]._parameters["weight"]
    orders = orders_of(net)
    assert torch.equal(
        net.model[1].weight,
        model[1].weight[orders["1"]][:, orders["0"]] if "1" in orders else model[1].weight[orders["0"]][:, orders["0"]],
    )
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-10, atol=1e-10)


def test_the_memory_format_stays():
    model = shaken(Residual()).to(memory_format=torch.channels_last).eval()
    net = slimmable.convert(model, IMAGES.float(), divisor=1, importance=by_chance)
    assert net.model.conv1.weight.stride() == model.conv1.weight.stride()
    assert not net.model.conv1.weight.is_contiguous()


def test_switches_get_the_statistics_gains_and_shifts_of_their_best_channels():
    model = shaken(Residual()).double().eval()
    net = slimmable.convert(model, IMAGES, divisor=2, switches=[1.0, 0.5], importance=by_chance)
    order = orders_of(net)["conv1"]
    narrow = net.table(net.space.uniform(0.5))
    for name in ("weight", "bias"):
        assert torch.equal(narrow.value(0, name), getattr(model.norm, name)[order][:6])
    assert torch.equal(narrow.value(0, "mean"), model.norm.running_mean[order][:6])
    assert torch.equal(narrow.value(0, "var"), model.norm.running_var[order][:6])
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)


def test_a_widened_network_holds_the_sorted_one():
    model = shaken(Residual()).double().eval()
    net = slimmable.convert(model, IMAGES, divisor=2, max_ratio=1.5, importance=by_chance)
    order = orders_of(net)["conv1"]
    assert torch.equal(net.model._modules["norm"]._parameters["weight"][:12], model.norm.weight[order])
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)


def test_a_group_with_one_choice_is_left_alone():
    model = shaken(Residual()).double().eval()
    net = slimmable.convert(model, IMAGES, divisor=2, min_ratio=1.0, importance=by_chance)
    assert net.report.order == ()
    assert torch.equal(net.model.conv1.weight, model.conv1.weight)


@pytest.mark.parametrize("sorted_too", [True, False])
def test_a_checkpoint_of_a_sorted_network_loads_into_others(tmp_path, sorted_too):
    """The order is in the weights: who loads them needs none of his own."""
    net = slimmable.convert(shaken(Residual()).eval(), IMAGES.float(), divisor=2, importance="l1")
    widths = net.space.uniform(0.5)
    slimmable.calibrate(net, [IMAGES.float()], [widths])
    slimmable.save(net, tmp_path / "net.safetensors")
    how = {"importance": "l1"} if sorted_too else {}
    other = slimmable.convert(shaken(Residual(), seed=1).eval(), IMAGES.float(), divisor=2, **how)

    slimmable.load(other, tmp_path / "net.safetensors")

    for each in (widths, net.space.largest):
        with torch.no_grad(), net.at(each), other.at(each):
            assert torch.equal(other(IMAGES.float()), net(IMAGES.float()))


# --------------------------------------------------------------------------------------------------------- scores


def units_of(model: nn.Module, x: Tensor = IMAGES) -> dict[str, Units]:
    """What a score sees of every group."""
    seen: dict[str, Units] = {}

    def note(units: Units) -> Tensor:
        seen[units.group] = units
        return torch.zeros(units.count)

    slimmable.convert(model, x, divisor=1, importance=note)
    return seen


def rows(*parts: Tensor) -> Tensor:
    """What belongs to each unit, put side by side; each part has the units first."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def assert_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same weights for each unit, in whatever order."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float64
        assert torch.equal(found[name].sort(1).values, tensor.double().sort(1).values), name


def test_a_score_sees_which_layers_read_write_and_normalise_the_units():
    model = shaken(Residual()).eval()
    stem, inner = (units_of(model, IMAGES.float())[name] for name in ("stem", "conv1"))

    assert (stem.count, inner.count) == (8, 12)
    assert_weights(
        stem.read,
        {
            "conv1.weight": rows(model.conv1.weight.transpose(0, 1)),
            "head.weight": rows(model.head.weight.transpose(0, 1)),
        },
    )
    assert_weights(stem.written, {"stem.weight": rows(model.stem.weight), "conv2.weight": rows(model.conv2.weight)})
    assert_weights(stem.others, {"stem.bias": rows(model.stem.bias), "conv2.bias": rows(model.conv2.bias)})
    assert stem.gains == {}
    assert_weights(inner.read, {"conv2.weight": rows(model.conv2.weight.transpose(0, 1))})
    assert_weights(inner.written, {"conv1.weight": rows(model.conv1.weight)})
    assert_weights(inner.gains, {"norm.weight": rows(model.norm.weight)})
    assert_weights(inner.others, {"conv1.bias": rows(model.conv1.bias), "norm.bias": rows(model.norm.bias)})


def test_a_unit_of_a_grouped_convolution_is_one_channel_of_every_group():
    model = shaken(Grouped()).eval()
    first, grouped = (units_of(model, IMAGES.float())[name] for name in ("first", "grouped"))

    assert (first.count, grouped.count) == (4, 6)
    assert_weights(first.written, {"first.weight": rows(model.first.weight[:4], model.first.weight[4:])})
    assert_weights(first.read, {"grouped.weight": rows(model.grouped.weight.transpose(0, 1))})
    assert_weights(grouped.written, {"grouped.weight": rows(model.grouped.weight[:6], model.grouped.weight[6:])})
    assert_weights(grouped.read, {"last.weight": rows(model.last.weight.transpose(0, 1).reshape(6, 2, 2))})


def test_a_depthwise_kernel_is_no_weight_that_reads_or_writes():
    model = shaken(Joined()).eval()
    b = units_of(model, IMAGES.float())["b"]

    read = model.head.weight.view(2, 17, 32)[:, 8:14].transpose(0, 1)
    assert_weights(b.read, {"head.weight": rows(read)})
    assert_weights(b.written, {"b.weight": rows(model.b.weight)})
    assert set(b.others) == {"b.bias", "deep.weight", "deep.bias"}


def by_layers(weights: Sequence[Tensor]) -> list[float]:
    """The formula of the scores, in loops."""
    scores = [0.0] * len(weights[0])
    for layer in weights:
        sizes = [sum(map(abs, unit)) / len(unit) for unit in layer.detach().flatten(1).tolist()]
        for place, size in enumerate(sizes):
            scores[place] += size / (sum(sizes) / len(sizes)) / len(weights)
    return scores


def swapped(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1)


SCORES: dict[str, dict[str, Callable[[Residual], list[Tensor]]]] = {
    "l1": {
        "stem": lambda net: [swapped(net.conv1.weight), swapped(net.head.weight)],
        "conv1": lambda net: [swapped(net.conv2.weight)],
    },
    "filters": {
        "stem": lambda net: [net.stem.weight, net.conv2.weight],
        "conv1": lambda net: [net.conv1.weight],
    },
    "batch_norm": {
        "stem": lambda net: [swapped(net.conv1.weight), swapped(net.head.weight)],  # there is none: l1
        "conv1": lambda net: [net.norm.weight[:, None]],
    },
}


@pytest.mark.parametrize("importance", SCORES)
def test_channels_are_sorted_by_the_formula(importance):
    model = shaken(Residual()).double().eval()
    with torch.no_grad():
        model.norm.weight.sub_(1.0)  # gains of both signs
    expected = {group: falling(by_layers(weights(model))) for group, weights in SCORES[importance].items()}

    net = slimmable.convert(model, IMAGES, divisor=1, importance=importance)

    assert orders_of(net) == expected


@pytest.mark.parametrize("importance", ["l1", "filters"])
def test_layers_of_a_residual_group_count_alike_whatever_their_scale(importance):
    model = shaken(Residual()).double().eval()
    before = orders_of(slimmable.convert(model, IMAGES, divisor=1, importance=importance))
    with torch.no_grad():
        for weight in (model.stem.weight, model.head.weight):
            weight.mul_(1000)
    assert orders_of(slimmable.convert(model, IMAGES, divisor=1, importance=importance)) == before


def test_units_of_equal_score_keep_their_order():
    model = shaken(Residual()).eval()
    net = slimmable.convert(
        model, IMAGES.float(), divisor=1, importance=lambda units: (torch.arange(units.count) % 3).float()
    )
    assert orders_of(net)["stem"] == [2, 5, 1, 4, 7, 0, 3, 6]


def test_weights_of_zero_are_scored_too():
    model = shaken(Residual()).eval()
    nn.init.zeros_(model.conv2.weight)
    net = slimmable.convert(model, IMAGES.float(), divisor=1, importance="l1")
    assert orders_of(net)["conv1"] == list(range(12))


def test_parameters_of_no_layer_are_scored_by_their_own():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.up).relu() @ self.down

    torch.manual_seed(0)
    model = Bare()
    net = slimmable.convert(model, torch.randn(3, 6), divisor=1, importance="filters")
    (order,) = net.report.order
    assert order.score == "l1"
    assert list(order.order) == falling(by_layers([model.up.t(), model.down]))


def test_the_report_says_what_was_sorted_and_how():
    net = slimmable.convert(shaken(Residual()).eval(), IMAGES.float(), divisor=1, importance="batch_norm")
    assert {each.group: each.score for each in net.report.order} == {"stem": "l1", "conv1": "batch_norm"}
    assert "groups sorted, most important channels first: 1 by l1, 1 by batch_norm" in str(net.report)
    entry = net.report.to_json()["order"][1]
    assert entry["group"] == "conv1"
    assert entry["score"] == "batch_norm"
    assert sorted(entry["order"]) == list(range(12))


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown name": ("l2", r"importance must be None, 'l1', 'filters', 'batch_norm' or a function .* got 'l2'"),
    "number": (3, "importance must be None, .* got 3"),
    "wrong number": (
        lambda units: torch.ones(units.count + 1),
        r"<lambda> gave shape \(9,\) for group 'stem'; expected .* shape \(8,\)",
    ),
    "one for each weight": (lambda units: next(iter(units.read.values())), "expected a tensor of shape"),
    "list": (lambda units: [0.0] * units.count, r"gave \[0\.0, .*expected a tensor of shape \(8,\)"),
    "no numbers": (lambda units: torch.full((units.count,), torch.nan), "group 'stem' that are no finite numbers"),
}


@pytest.mark.parametrize(("importance", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_importance_is_refused(importance, message):
    with pytest.raises(ConversionError, match=message):
        slimmable.convert(shaken(Residual()).eval(), IMAGES.float(), divisor=1, importance=importance)
