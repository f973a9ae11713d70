"""What cannot vary is held at full width and named, with the operator and the line; a user's rule sets it free."""

import copy
import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable.core import narrow
from slimmable.core.operators import RULES
from slimmable.errors import ConversionError
from tests.unit.core.oracle import Case, assert_same, assert_slims, images, segments

IMAGES = images()


@torch.library.custom_op("slimmable_tests::scale", mutates_args=())
def scale(x: Tensor, gain: Tensor) -> Tensor:
    """Multiply channel c of x with gain[c]; no backward is defined."""
    return x * gain[:, None, None]


@scale.register_fake
def _(x: Tensor, gain: Tensor) -> Tensor:
    return torch.empty_like(x)


scale.register_autograd(
    lambda ctx, grad: (grad * ctx.gain[:, None, None], (grad * ctx.x).sum((0, 2, 3))),
    setup_context=lambda ctx, inputs, output: ctx.__dict__.update(x=inputs[0], gain=inputs[1]),
)


class Scaled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3)
        self.gain = nn.Parameter(torch.ones(channels))
        self.last = nn.Conv2d(channels, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(scale(self.first(x), self.gain))


@pytest.fixture
def rules() -> Iterator[None]:
    """Rules registered by a test are gone after it."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def line_of(function: Callable[..., object], text: str) -> str:
    """``file:line`` of the first line of a function's source that contains a text."""
    lines, start = inspect.getsourcelines(function)
    return f"test_pins.py:{start + next(i for i, line in enumerate(lines) if text in line)}"


def test_an_operator_without_a_rule_is_named_with_the_line_that_calls_it():
    net = slimmable.convert(Scaled(16), IMAGES)
    assert len(net.space) == 0
    (pin,) = [pin for pin in net.report.pinned if pin.layer == "first"]
    assert pin.reason == "the operator has no rule"
    assert pin.operator == "slimmable_tests.scale.default"
    assert pin.line == line_of(Scaled.forward, "scale(self.first(x)")
    assert pin.channels == pin.of == 16
    assert f"slimmable_tests.scale.default, {pin.line}" in str(net.report)


def test_a_documented_rule_makes_it_elastic(rules):
    @slimmable.operator_rule("slimmable_tests.scale")
    def scale_rule(op):
        x, gain = op.axes("x"), op.axes("gain")
        op.unify(x[1], gain[0])
        return x

    assert_slims(Case(build=Scaled, full=(16,), narrow=((4,), (9,)), inputs=(IMAGES,)))


def test_a_rule_of_wrong_sizes_is_refused_by_name(rules):
    slimmable.operator_rule("slimmable_tests.scale.default")(lambda op: op.axes("gain"))
    with pytest.raises(ConversionError, match=r"rule of slimmable_tests\.scale\.default gives outputs of sizes"):
        slimmable.convert(Scaled(16), IMAGES)


def test_a_rule_that_forgets_an_axis_cannot_pass_silently(rules):
    """The gain is not said to agree with x: as a narrow x does not fit, axes of one size in the module are joined."""
    slimmable.operator_rule("slimmable_tests.scale")(lambda op: op.axes("x"))
    assert_slims(Case(build=Scaled, full=(16,), narrow=((4,), (9,)), inputs=(IMAGES,)))


def test_a_rule_that_says_what_is_not_so_cannot_pass_silently(rules):
    """Channels are said to agree with an axis of fixed size."""

    @slimmable.operator_rule("slimmable_tests.scale")
    def wrong(op):
        op.unify(op.axes("x")[1], op.constant(16))
        return op.axes("x")

    net = slimmable.convert(Scaled(16), IMAGES)
    assert not net.space.groups
    (pin,) = [pin for pin in net.report.pinned if pin.layer == "first"]
    assert pin.operator == "slimmable_tests.scale.default"


class Pinned(nn.Module):
    """A body between two convolutions of 16 channels."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Conv2d(3, 16, 1), body, nn.LazyConv2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.body(self.first(x))))


def swap_halves(x: Tensor) -> Tensor:
    return torch.cat([x[:, 8:], x[:, :8]], 1)


BODIES = {
    "slice": (lambda x: x[:, 2:7], "aten.slice.Tensor", "its code fixes a size"),
    "every other": (lambda x: x[:, ::2], "aten.slice.Tensor", "is sliced at fixed positions"),
    "uneven split": (lambda x: x.split([5, 11], 1)[0], "aten.split_with_sizes.default", "its code fixes a size"),
    "uneven chunk": (lambda x: x.chunk(3, 1)[0], "aten.chunk.default", r"cut into parts of \[6, 6, 4\]"),
    "one channel": (lambda x: x[:, 3:4] + x, "aten.slice.Tensor", "its code fixes a size"),
    "channel by number": (lambda x: x * x[:, 5, None], "aten.select.int", "a fixed position of the axis is selected"),
    "roll": (lambda x: x.roll(1, 1), "aten.roll.default", "its positions change places"),
    "flip": (lambda x: x.flip(1), "aten.flip.default", "its positions change places"),
    "unbind": (lambda x: torch.stack(x.unbind(1)[:4], 1), "aten.unbind.int", "an axis that is unbound cannot vary"),
    "index": (lambda x: x[:, torch.tensor([0, 3, 1])], "aten.index.Tensor", "is indexed by a tensor"),
    "cropped padding": (lambda x: F.pad(x, (0, 0, 0, 0, 0, -1)), "aten.pad.default", "is cropped at fixed positions"),
    "image patches": (lambda x: F.unfold(x, 3)[..., None], "aten.im2col.default", "the operator has no rule"),
    "sort": (lambda x: x.sort(1).values, "aten.sort.default", "the operator has no rule"),
    "swapped halves": (swap_halves, "aten.slice.Tensor", "its code fixes a size"),
}


@pytest.mark.parametrize(("body", "operator", "reason"), BODIES.values(), ids=BODIES)
def test_what_reads_fixed_positions_is_held_and_named(body, operator, reason):
    model = Pinned(body)
    with torch.no_grad():
        model(IMAGES)
    net = slimmable.convert(model, IMAGES, divisor=1)
    assert not net.space.groups
    pins = [pin for pin in net.report.pinned if pin.layer == "first"]
    assert pins
    assert sum(pin.channels for pin in pins) >= 15  # a single channel that is cut off is no width
    assert any(pin.operator == operator for pin in pins)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(pins[0]))
    assert all(pin.line.startswith("test_pins.py:") for pin in pins)


class HardCoded(nn.Module):
    """Code that names its channel count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return self.conv(x).view(n, 16, h * w).view(n, 16, h, w)


class Checked(nn.Module):
    """Code that refuses another channel count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 16:
            raise ValueError(f"expected 16 channels, got {x.shape[1]}")
        return self.conv(x)


class OtherWay(nn.Module):
    """Code that takes another way when it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[1] == 16 else self.conv(x).tanh()


@pytest.mark.parametrize("module", [HardCoded, Checked, OtherWay])
def test_a_module_whose_code_fixes_a_size_is_held_and_the_rest_varies(module):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), module(), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 2, 1)
    )
    net = slimmable.convert(model, IMAGES)
    assert "3" in net.space.names, str(net.report)
    held = [pin for pin in net.report.pinned if pin.layer != "5"]
    assert held, str(net.report)
    assert all("its code" in pin.reason for pin in held), str(net.report)
    for widths in (net.space.smallest, net.space.largest):
        with net.at(widths), torch.no_grad():
            assert torch.equal(net(IMAGES), net.extract(widths)(IMAGES))


def test_code_that_cuts_at_a_number_is_held_when_the_network_is_widened():
    """At the given width and below, the slice takes all channels."""

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :16]

    model = nn.Sequential(nn.Conv2d(3, 16, 1), Cut(), nn.Conv2d(16, 2, 1)).eval()
    assert slimmable.convert(model, IMAGES).space.names == ("0",)
    net = slimmable.convert(model, IMAGES, max_ratio=1.5)
    assert not net.space.groups
    assert "its code fixes a size" in net.report.pinned[0].reason


class Keeping(nn.Module):
    """A module that keeps what it computed, for the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(16, 16, 1), nn.Parameter(torch.ones(16))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None or self.training:
            self.kept = self.gain.square()[:, None, None]
        return self.conv(x) * self.kept


def test_a_module_that_keeps_a_tensor_of_one_width_is_held_and_named():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), Keeping(), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    net = slimmable.convert(model, IMAGES, divisor=1)
    assert "2" in net.space.names
    assert [pin.layer for pin in net.report.pinned if "it keeps what it computed at another width" in pin.reason] == [
        "1.conv"
    ]
    for widths in (net.space.largest, net.space.smallest, net.space.largest):
        with net.at(widths), torch.no_grad():
            assert torch.equal(net(IMAGES), net.extract(widths)(IMAGES))


class Noisy(nn.Module):
    """Code for training alone that fixes a size; ``branching`` on values, which cannot be traced."""

    def __init__(self, branching: bool) -> None:
        super().__init__()
        self.conv, self.branching = nn.Conv2d(3, 32, 1), branching

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training and (not self.branching or x.square().sum() >= 0):
            x = x + 0.1 * torch.randn(32, 1, 1)
        return x


@pytest.mark.parametrize("heavy", [0, 10**12], ids=["hollow", "data"])
@pytest.mark.parametrize("branching", [False, True])
def test_a_size_that_training_alone_fixes_is_held_and_named(branching, heavy, monkeypatch):
    monkeypatch.setattr(narrow, "_HEAVY", heavy)
    model = nn.Sequential(Noisy(branching), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 2, 1))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    net = slimmable.convert(model, IMAGES)

    assert torch.equal(torch.get_rng_state(), state)
    assert_same(model.state_dict(), before)
    assert net.space.names == ("3",)
    held = next(pin for pin in net.report.pinned if pin.layer == "0.conv")
    if branching:
        assert "in training its code fixes a size" in held.reason
    else:
        assert held.line == line_of(Noisy.forward, "torch.randn")
    net.train()
    with net.at(net.space.smallest):
        assert net(IMAGES).isfinite().all()


def test_a_network_that_does_not_train_on_the_example_at_any_width_is_converted():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1))
    net = slimmable.convert(pooled, IMAGES[:1])
    assert net.space.names == ("1",)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.mean() > 0 else x

    with pytest.raises(ConversionError, match=r"cannot trace Branching.*must not branch on their values"):
        slimmable.convert(Branching(), IMAGES)


class Attention(nn.Module):
    """Attention of four heads with ``value`` channels each."""

    def __init__(self, channels: int, value: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, 16), nn.Linear(channels, 16)
        self.value, self.back = nn.Linear(channels, value * 4), nn.Linear(value * 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        heads = [part(x).view(n, length, 4, -1).transpose(1, 2) for part in (self.query, self.key, self.value)]
        y = F.scaled_dot_product_attention(*heads)
        return x + self.back(y.transpose(1, 2).reshape(n, length, -1))


class Transformer(nn.Module):
    def __init__(self, channels: int, value: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, channels), nn.LayerNorm(channels)
        self.attention = Attention(channels, value)
        self.hidden, self.back, self.head = (
            nn.Linear(channels, hidden),
            nn.Linear(hidden, channels),
            nn.Linear(channels, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm(self.embed(x)))
        return self.head(x + self.back(F.gelu(self.hidden(x))))


TOKENS = torch.randn(3, 5, 6)


def attention_keep(full, narrow):
    value = segments(*[(narrow[1] // 4, full[1] // 4)] * 4)
    names = ("attention.value.weight", "attention.value.bias")
    return {name: {0: value} for name in names} | {"attention.back.weight": {1: value}}


def test_in_attention_the_values_of_all_heads_vary_and_the_width_of_queries_is_held():
    """The width of query and key sets the softmax's scale."""
    case = Case(
        build=lambda channels, values, hidden: Transformer(channels, values // 4, hidden),
        full=(24, 16, 32),
        narrow=((6, 16, 32), (24, 4, 9), (24, 12, 32)),
        inputs=(TOKENS,),
        keep=attention_keep,
    )
    net = assert_slims(case)
    held = {pin.layer: pin for pin in net.report.pinned}
    for layer in ("attention.query", "attention.key"):
        assert held[layer].operator == "aten.scaled_dot_product_attention.default"
        assert held[layer].line == line_of(Attention.forward, "scaled_dot_product_attention")


def test_a_recurrent_layer_is_named_and_what_is_apart_from_it_varies():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.hidden, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 32), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.hidden(self.lstm(x)[0])))

    net = slimmable.convert(Recurrent(), TOKENS)
    assert net.space.names == ("hidden",)


def test_a_weight_computed_by_an_operator_without_a_rule_is_held_by_name():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 8, 1))
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Conv2d(32, 2, 1))
    net = slimmable.convert(model.eval(), IMAGES)
    assert net.space.names == ("4",)
    assert [pin.module for pin in net.report.pinned if pin.layer == "0"] == ["2"]


def test_parameters_that_the_example_does_not_reach_are_listed():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.head = nn.Linear(6, 16), nn.Linear(6, 3), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.used(x))

    net = slimmable.convert(Idle(), TOKENS)
    assert net.report.unreached == ("idle.weight", "idle.bias")
    assert "not reached by the example: idle.weight, idle.bias" in str(net.report)
    assert net.space.names == ("used",)
