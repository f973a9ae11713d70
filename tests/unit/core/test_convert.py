"""Options of the conversion, what it leaves alone, and how it refuses what makes no sense."""

import copy
import inspect
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import slimmable
from slimmable import SlimmableError, Widths
from slimmable.errors import ConversionError, WidthError
from tests.unit.core.oracle import assert_same, images, shaken

IMAGES = images()


def network(a: int = 32, b: int = 64) -> nn.Module:
    """Two widths, batch norm behind the first."""
    return shaken(
        nn.Sequential(
            nn.Conv2d(3, a, 3), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, 2, 1)
        )
    ).eval()


class Inverted(nn.Module):
    """An inverted bottleneck: its inner width is six times its input's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 96, 1)
        self.project, self.head = nn.Conv2d(96, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.project(self.expand(x).relu()))


def test_the_given_network_stays_as_it_was():
    model = network().train()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    net = slimmable.convert(model, IMAGES)
    net.set(net.space.smallest)
    net.train()(IMAGES).sum().backward()
    assert_same(model.state_dict(), before)
    assert [type(module).__name__ for module in model] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks == [dict(module._forward_hooks) for module in model.modules()]
    assert model.training
    assert not net.model[0].weight.requires_grad
    assert net.model[0]._parameters["weight"].grad is None


@pytest.mark.parametrize("training", [True, False])
def test_mode_device_and_dtype_are_those_of_the_given_network(training):
    model = network().double().train(training)
    net = slimmable.convert(model, IMAGES.double())
    assert net.training is training
    assert all(module.training is training for module in net.modules())
    assert net(IMAGES.double()).dtype == torch.float64
    assert net.widths == net.space.base == net.space.largest


def test_state_dict_names_are_those_of_the_given_network():
    """Batch-norm statistics alone have moved, to the tables of widths."""
    model = network()
    net = slimmable.convert(model, IMAGES)
    ours = {name.removeprefix("model."): tensor for name, tensor in net.state_dict().items() if "model." in name}
    expected = {
        name: tensor for name, tensor in model.state_dict().items() if name.split(".")[-1] in ("weight", "bias")
    }
    assert list(ours) == list(expected)
    assert_same(ours, expected)
    assert [name for name, _ in net.named_parameters()] == [f"model.{name}" for name, _ in model.named_parameters()]


def test_ratios_and_divisor_set_the_range_of_every_group():
    net = slimmable.convert(network(), IMAGES, min_ratio=0.5, divisor=4)
    assert [group.choices for group in net.space.groups] == [tuple(range(16, 33, 4)), tuple(range(32, 65, 4))]
    assert len(net.space) == 2
    assert [group.name for group in net.space.groups] == ["0", "3"]


def test_options_may_be_numbers_of_numpy(tmp_path):
    half = np.float32(0.5)
    options: dict[str, Any] = {
        "min_ratio": half,
        "max_ratio": np.int64(1),
        "divisor": np.int32(4),
        "switches": [np.float32(1), half],
    }
    net = slimmable.convert(network(), IMAGES, **options)
    assert net.space == slimmable.convert(network(), IMAGES, min_ratio=0.5, divisor=4).space
    assert net.switches == (net.space.largest, net.space.smallest)
    slimmable.save(net, tmp_path / "net")
    assert slimmable.load(tmp_path / "net").switches == net.switches


def test_excluded_layers_keep_their_width_and_the_report_says_so():
    net = slimmable.convert(network(), IMAGES, exclude=["3"])
    assert net.space.names == ("0",)
    assert [str(pin) for pin in net.report.pinned if pin.layer == "3"] == ["3: all 64 channels stay: excluded by '3'"]
    net = slimmable.convert(nn.ModuleDict({"body": network()})["body"], IMAGES, exclude=["[0-3]"])
    assert net.space.names == ()
    assert len(net.space) == 0
    assert net.space.largest == net.space.smallest == net.space.random(Random(0)) == Widths.of({})
    assert_same(net(IMAGES), network()(IMAGES))


def test_excluding_a_container_holds_all_layers_in_it():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)), nn.ReLU(), nn.Conv2d(16, 2, 1))
    assert slimmable.convert(model, IMAGES, exclude=["0"]).space.names == ()
    assert slimmable.convert(model, IMAGES, exclude=["0.0"]).space.names == ("0.1",)


def test_tied_groups_are_one_independent_width():
    net = slimmable.convert(network(), IMAGES, tie=[["0", "3"]])
    assert len(net.space) == 1
    for seed in range(5):
        widths = net.space.random(Random(seed))
        assert widths["0"] == net.space["0"].at(widths["3"] / 64)
        with net.at(widths):
            assert net.model[3].weight.shape == (widths["3"], widths["0"], 1, 1)
    assert len(slimmable.convert(network(), IMAGES, tie=[["*"]]).space) == 1


def test_a_follower_has_a_multiple_of_the_rounded_width_it_follows():
    net = slimmable.convert(Inverted(), IMAGES, follow={"expand": ("stem", 6)}, min_ratio=0.35)
    for ratio in (0.35, 0.5, 0.75, 1.0):
        widths = net.space.uniform(ratio)
        assert widths["expand"] == 6 * widths["stem"]
    assert len(net.space) == 2


def test_a_widened_network_equals_the_original_at_base_widths():
    model = network()
    net = slimmable.convert(model, IMAGES, max_ratio=1.5)
    assert net.space.base.channels == (32, 64)
    assert net.space.largest.channels == (48, 96)
    assert net.widths == net.space.base
    with torch.no_grad():
        assert_same(net(IMAGES), model(IMAGES))
    full = {name: parameter.detach() for name, parameter in net.model.named_parameters()}
    assert full["3.weight"].shape == (96, 48, 1, 1)
    assert torch.equal(full["3.weight"][:64, :32], model[3].weight)
    new = full["3.weight"].clone()
    new[:64, :32] = float("nan")
    assert float(new[~new.isnan()].std()) == pytest.approx(float(model[3].weight.detach().std()), rel=0.1)
    assert torch.equal(full["1.weight"][32:], torch.ones(16))
    assert torch.equal(full["1.bias"][32:], torch.zeros(16))
    net.train()
    for widths in (net.space.largest, net.space.smallest, net.space.uniform(1.25)):
        with net.at(widths):
            assert net(IMAGES).isfinite().all()
    again = slimmable.convert(model, IMAGES, max_ratio=1.5)
    assert_same(again.extract(again.space.base).state_dict(), model.state_dict())


def test_a_widened_concatenation_keeps_its_segments_apart():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(24, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.a(x), self.b(x)], 1).relu())

    model = shaken(Joined()).eval()
    net = slimmable.convert(model, IMAGES, max_ratio=2.0)
    with torch.no_grad():
        assert_same(net(IMAGES), model(IMAGES))
    full = net.model._modules["head"]._parameters["weight"]
    assert full.shape == (2, 48, 1, 1)
    assert torch.equal(full[:, [*range(8), *range(16, 32)]], model.head.weight)


def test_switches_are_ratios_or_widths_and_no_other_width_runs():
    net = slimmable.convert(network(), IMAGES, switches=[1.0, 0.5, 0.25, 0.5])
    assert net.switches == (net.space.uniform(1.0), net.space.uniform(0.5), net.space.uniform(0.25))
    assert net.batch_norm == "private"
    other = net.space.uniform(0.75)
    with pytest.raises(WidthError, match=r"is not a switch of this network.*convert without switches"):
        net.set(other)
    again = slimmable.convert(network(), IMAGES, switches=[net.space.largest, net.space.smallest])
    assert again.switches == (net.space.largest, net.space.smallest)


@pytest.mark.parametrize(("a", "b"), [(32, 64), (16, 8)])
def test_averaged_layers_multiply_by_full_over_active_input_channels(a, b):
    model = nn.Sequential(
        nn.Conv2d(3, a, 1), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.Flatten(), nn.Linear(b * 16, 5)
    )
    net = slimmable.convert(shaken(model), IMAGES, averaged=True, divisor=2)
    with torch.no_grad():
        assert_same(net(IMAGES), model(IMAGES))
    c, d = net.space.smallest.channels
    with torch.no_grad():
        x = nn.functional.conv2d(IMAGES, model[0].weight[:c], model[0].bias[:c]).relu()
        x = nn.functional.conv2d(x, model[2].weight[:d, :c], model[2].bias[:d]) * (a / c)
        expected = nn.functional.linear(x.relu().flatten(1), model[5].weight[:, : d * 16], model[5].bias) * (b / d)
        with net.at(net.space.smallest):
            torch.testing.assert_close(net(IMAGES), expected)
        torch.testing.assert_close(net.extract(net.space.smallest)(IMAGES), expected)


def test_the_report_says_what_varies_and_what_does_not():
    net = slimmable.convert(network(), IMAGES)
    report = net.report
    assert [group.producers for group in report.groups] == [("0",), ("3",)]
    assert [group.consumers for group in report.groups] == [("1", "3"), ("5",)]
    assert report.layers == report.elastic == ("0", "3", "5")
    text = str(report)
    assert text.startswith("3 of 3 layers are elastic, in 2 groups")
    assert "0: 8..32 by 8 (given 32); out of 0; into 1, 3" in text
    assert "5: all 2 channels stay: is the network's output" in text
    assert report.to_json()["groups"][1]["maximum"] == 64
    assert set(inspect.signature(slimmable.convert).parameters) >= {"exclude", "tie", "follow", "switches", "averaged"}


REFUSED = {
    "min above max": ({"min_ratio": 1.5, "max_ratio": 1.2}, "expected 0 < min_ratio <= max_ratio, got 1.5 and 1.2"),
    "zero": ({"min_ratio": 0.0}, "expected 0 < min_ratio"),
    "max below one": ({"max_ratio": 0.5}, "max_ratio must be at least 1"),
    "fraction as divisor": ({"divisor": 2.5}, "divisor must be a positive whole number, got 2.5"),
    "text as ratio": ({"min_ratio": "half"}, "min_ratio must be a number, got 'half'"),
    "not a number": ({"min_ratio": float("nan")}, "expected 0 < min_ratio"),
    "batch norm": ({"batch_norm": "shared"}, "must be one of calibrated, private, naive; got 'shared'"),
    "one switch": (
        {"switches": 0.5},
        r"switches takes a list of ratios or widths, such as \[1.0, 0.5, 0.25\]; got 0.5",
    ),
    "text as switch": ({"switches": ["half"]}, "a switch is a ratio or Widths; got 'half'"),
    "follower without factor": ({"follow": {"0": "3"}}, "follow takes a group and a factor"),
    "divisor": ({"divisor": 0}, "divisor must be a positive whole number, got 0"),
    "exclude of nothing": ({"exclude": ["stem"]}, "no module matches 'stem'; print.model. shows their names"),
    "exclude as text": ({"exclude": "3"}, r"exclude takes a list of module paths, such as \['3'\]"),
    "exclude of a norm": (
        {"exclude": ["1"]},
        r"'1' matches 1 \(BatchNorm2d\), which opens no width and follows .*; exclude what opens it: 0$",
    ),
    "exclude of a function": ({"exclude": ["5", "[24]"]}, r"'\[24\]' matches 2 \(ReLU\), .* opens it: 0, 3$"),
    "exclude behind what is fixed": ({"exclude": ["0", "1"]}, r"matches 1 \(BatchNorm2d\), .*; leave the pattern out"),
    "tie of nothing": ({"tie": [["0", "9"]]}, "no width group matches '9'; the groups are 0, 3"),
    "tie as text": ({"tie": ["0"]}, "tie takes a list of sets of group names"),
    "follower of nothing": ({"follow": {"0": ("9", 2)}}, "no width group '9'; the groups are 0, 3"),
    "nothing follows": ({"follow": {"9": ("0", 2)}}, "no width group '9'; the groups are 0, 3"),
    "circle": ({"follow": {"0": ("3", 1), "3": ("0", 2)}}, "follow each other in a circle"),
    "private without switches": ({"batch_norm": "private"}, "private batch norm needs a list of switches"),
    "switches without private": ({"batch_norm": "naive", "switches": [1.0]}, "private batch norm needs"),
    "switch out of range": ({"switches": [1.0, 0.1]}, r"ratio of 0.1 lies outside \[0.25, 1.0\]"),
    "switch of another space": ({"switches": [Widths.of({"x": 1})]}, "belong to another space"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_options_that_make_no_sense_are_refused_with_the_cure(options, message):
    with pytest.raises(SlimmableError, match=message):
        slimmable.convert(network(), IMAGES, **options)


def test_a_converted_network_is_not_converted_again():
    net = slimmable.convert(network(), IMAGES)
    with pytest.raises(ConversionError, match="converted already"):
        slimmable.convert(net, IMAGES)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (None, IMAGES, "convert takes a network, a torch.nn.Module; got NoneType"),
        (torch.relu, IMAGES, "got builtin_function_or_method"),
        (network(), (), "cannot trace Sequential: missing a required argument"),
        (network(), images(4), "expected input.* to have 3 channels, but got 4"),
        (network().to("meta"), IMAGES.to("meta"), "on the meta device"),
        (nn.Sequential(nn.LazyConv2d(8, 1)), IMAGES, "uninitialized parameter"),
    ],
    ids=["nothing", "a function", "no inputs", "wrong inputs", "no weights", "lazy weights"],
)
def test_what_is_no_network_or_does_not_run_is_refused(model, inputs, message):
    with pytest.raises(ConversionError, match=message):
        slimmable.convert(model, inputs)


@pytest.mark.parametrize("place", ["the network", "module '0'"])
def test_a_compiled_network_is_refused_with_the_way_to_compile_the_converted_one(place):
    compiled = torch.compile(network(), backend="eager")
    model = compiled if place == "the network" else nn.Sequential(compiled, nn.ReLU())
    with pytest.raises(ConversionError, match=f"{place} is the result of torch.compile; convert.*_orig_mod"):
        slimmable.convert(model, IMAGES)


class Counting(nn.Module):
    """A network whose output depends on how often it was called."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.body, self.in_place = network(), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.body(x) * (1 + self.calls)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_network_that_counts_its_calls_is_refused_by_the_name_of_the_buffer(in_place):
    with pytest.raises(ConversionError, match="in evaluation the network writes its buffers calls, on which"):
        slimmable.convert(Counting(in_place), IMAGES)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.complex64])
def test_outputs_need_not_be_real_numbers(dtype):
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.body(x)
            return {"logits": y, "decided": torch.complex(y, y) if dtype.is_complex else (y > 0).to(dtype)}

    model = Deciding().eval()
    net = slimmable.convert(model, IMAGES)
    assert len(net.space) == 2
    with torch.no_grad():
        assert_same(net(IMAGES), model(IMAGES))


def test_the_mode_of_every_layer_is_kept():
    """Batch norm is often held in evaluation while the rest of a network is tuned."""
    model = network().train()
    model[1].eval()
    net = slimmable.convert(model, IMAGES)
    assert [module.training for module in net.model] == [True, False, True, True, True, True]


def test_a_network_that_draws_at_random_is_converted_and_nobodys_draws_change():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x + torch.randn_like(x))

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = Noisy().eval()
    torch.manual_seed(7)
    net = slimmable.convert(model, IMAGES)
    assert torch.equal(torch.rand(3), expected)
    assert len(net.space) == 2


def test_widths_of_the_context_come_back_also_after_an_error():
    net = slimmable.convert(network(), IMAGES)
    half = net.space.uniform(0.5)
    net.set(half)

    def fail() -> None:
        with net.at(net.space.smallest):
            with net.at(net.space.largest):
                assert net.widths == net.space.largest
            assert net.widths == net.space.smallest
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert net.widths == half
    with pytest.raises(WidthError, match="another space"):
        net.set(Widths.of({"x": 8}))
    with pytest.raises(WidthError, match="cannot keep 9 channels"):
        net.set(Widths.of({"0": 9, "3": 16}))
    assert net.widths == half
