"""Laws of every conversion, on networks that nobody designed.

A random network is a stem, some blocks that each have a way of their own with channels, and a head. Whatever it is:
full width is the original bit for bit; every width computes what the full network does with all other weights at
zero; extraction changes nothing; shared gradients are those of slicing; costs are those that are counted.
"""

import copy
import os
from collections.abc import Callable
from random import Random

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import slimmable
from slimmable import SlimmableModel, Widths

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(channels, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm(self.conv1(x))))


class Branches(nn.Module):
    """Two branches joined, with or without what came in."""

    def __init__(self, channels: int, one: int, other: int, *, keep: bool) -> None:
        super().__init__()
        self.one, self.other, self.keep = nn.Conv2d(channels, one, 1), nn.Conv2d(channels, other, 3, padding=1), keep
        self.channels = one + other + (channels if keep else 0)
        self.norm = nn.BatchNorm2d(self.channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.relu(self.one(x)), self.other(x), *([x] if self.keep else [])]
        return self.norm(torch.cat(parts, 1))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Halves(nn.Module):
    """Half of the channels pass, the others are convolved; then they are shuffled, or not."""

    def __init__(self, channels: int, *, shuffled: bool) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.shuffled = shuffled

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = x.chunk(2, 1) if self.shuffled else x.split(x.shape[1] // 2, 1)
        x = torch.cat([passed, F.relu(self.conv(convolved))], 1)
        if not self.shuffled:
            return x
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Heads(nn.Module):
    """Attention between positions, by hand or fused; a head has four channels, their number is kept by the code."""

    def __init__(self, channels: int, *, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.fused = channels // 4, fused
        self.qkv, self.back = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, h * w, 3, self.num_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        tokens = tokens + self.back(y.transpose(1, 2).reshape(n, h * w, -1))
        return tokens.transpose(1, 2).reshape(n, c, h, w)


class Parts(nn.Module):
    """The first channels are convolved, the others pass; the code keeps how many."""

    def __init__(self, channels: int, *, sliced: bool) -> None:
        super().__init__()
        self.sizes, self.first, self.sliced = (channels // 4, channels - channels // 4), channels // 4, sliced
        self.conv = nn.Conv2d(channels // 4, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = (x[:, : self.first], x[:, self.first :]) if self.sliced else x.split(self.sizes, 1)
        return torch.cat([first + self.conv(first), rest], 1)


class Head(nn.Module):
    """Logits after pooling or flattening."""

    def __init__(self, channels: int, *, pooled: bool) -> None:
        super().__init__()
        self.pooled, self.linear = pooled, nn.Linear(channels if pooled else 16 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((F.adaptive_avg_pool2d(x, 1) if self.pooled else x).flatten(1))


Draw = Callable[[st.SearchStrategy], int]
WIDTHS = st.sampled_from([8, 12, 16])


def plain(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    out = draw(WIDTHS)
    kernel = draw(st.sampled_from([1, 3]))
    norm = nn.BatchNorm2d(out) if draw(st.booleans()) else nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, kernel, padding=kernel // 2), norm, nn.ReLU()), out


def depthwise(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    out = channels * draw(st.sampled_from([1, 2]))
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, groups=channels), nn.BatchNorm2d(out)), out


def grouped(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    groups = draw(st.sampled_from([2, 4]))
    out = draw(WIDTHS)
    shuffle = nn.ChannelShuffle(groups) if draw(st.booleans()) else nn.Tanh()
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, groups=groups), shuffle), out


def residual(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    return Residual(channels, draw(WIDTHS)), channels


def branches(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    block = Branches(channels, draw(WIDTHS), draw(WIDTHS), keep=draw(st.booleans()))
    return block, block.channels


def gate(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    return Gate(channels, draw(WIDTHS)), channels


def halves(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    return Halves(channels, shuffled=draw(st.booleans())), channels


def heads(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    entry, width = nn.Conv2d(channels, 16, 1), 16
    return nn.Sequential(entry, Heads(width, fused=draw(st.booleans()))), width


def parts(channels: int, draw: Draw) -> tuple[nn.Module, int]:
    return Parts(channels, sliced=draw(st.booleans())), channels


BLOCKS = [plain, depthwise, grouped, residual, branches, gate, halves, heads, parts]
EXAMPLES = int(os.environ.get("SLIMMABLE_EXAMPLES", "50"))
"""Networks that every law is tried on; ``make nightly`` takes more."""


@st.composite
def networks(draw: st.DrawFn, stranger: nn.Module | None = None) -> nn.Module:
    """A network in double precision, all parameters and statistics at random; maybe a stranger among its blocks."""
    torch.manual_seed(0)
    channels = draw(WIDTHS)
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4)):
        layer, channels = block(channels, draw)
        layers.append(layer)
    if stranger is not None:
        layers.insert(draw(st.integers(1, len(layers))), stranger)
    model = nn.Sequential(*layers, Head(channels, pooled=draw(st.booleans()))).double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + (0.5 if "running_var" in name else -0.3))
    return model


def widths_of(net: SlimmableModel) -> list[Widths]:
    return [net.space.smallest, *(net.space.random(Random(seed)) for seed in range(2)), net.space.largest]


def masked(model: nn.Module, net: SlimmableModel, widths: Widths) -> nn.Module:
    """The given network with every weight at zero that is not active; no slicing, only the flow of data."""
    full = copy.deepcopy(model)
    maximum = net.space.largest.channels
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            for dim, layout in enumerate(net.analysis.parameters[name]):
                active = torch.zeros(parameter.shape[dim], dtype=torch.bool)
                for start, length in net.grouping.axis(layout).active(widths.channels, maximum):
                    active[start : start + length] = True
                parameter.index_fill_(dim, (~active).nonzero().flatten(), 0.0)
    return full


def counted_macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(IMAGES[:1].to("meta"))
    return counter.get_total_flops() // 2


def gradients(net: SlimmableModel, *, shared: bool) -> list[Tensor | None]:
    """Of all widths on one batch, in training."""
    net = copy.deepcopy(net).train()
    if shared:
        with net.shared_gradients() as commit:
            for widths in widths_of(net):
                with net.at(widths):
                    net(IMAGES).square().sum().backward()
                commit()
    else:
        for widths in widths_of(net):
            with net.at(widths):
                net(IMAGES).square().sum().backward()
    return [parameter.grad for parameter in net.parameters()]


@settings(
    max_examples=EXAMPLES, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(networks())
def test_laws_of_every_conversion(model):
    net = slimmable.convert(model, IMAGES, divisor=2, batch_norm="naive")
    assert net.space.groups
    with torch.no_grad():
        assert torch.equal(net(IMAGES), model(IMAGES))
        for widths in widths_of(net):
            with net.at(widths):
                narrow = net(IMAGES)
            extracted = net.extract(widths)
            assert torch.equal(extracted(IMAGES), narrow)
            torch.testing.assert_close(narrow, masked(model, net, widths)(IMAGES), rtol=1e-9, atol=1e-11)
            assert slimmable.parameters(net, widths) == sum(each.numel() for each in extracted.parameters())
            assert slimmable.macs(net, widths) == counted_macs(extracted)
    for ours, theirs in zip(gradients(net, shared=True), gradients(net, shared=False), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@settings(
    max_examples=max(EXAMPLES // 3, 10),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(networks(), st.sampled_from([1.25, 1.5, 2.0]))
def test_laws_of_widened_networks(model, max_ratio):
    net = slimmable.convert(model, IMAGES, divisor=2, max_ratio=max_ratio)
    with torch.no_grad():
        assert torch.equal(net(IMAGES), model(IMAGES))
        assert torch.equal(net.extract(net.space.base)(IMAGES), model(IMAGES))
    net.train()
    for widths in widths_of(net):
        with net.at(widths):
            assert net(IMAGES).isfinite().all()
        assert slimmable.parameters(net, widths) >= slimmable.parameters(net, net.space.smallest)


@settings(
    max_examples=max(EXAMPLES // 3, 10),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(networks(), st.integers(0, 100))
def test_calibrated_statistics_are_those_of_the_extracted_network_in_training(model, seed):
    """One batch: exact statistics are what batch norm with a momentum of 1 keeps, with the variance biased."""
    net = slimmable.convert(model, IMAGES, divisor=2)
    widths = net.space.random(Random(seed))
    slimmable.calibrate(net, [IMAGES], [widths])
    extracted = net.extract(widths).train()
    norms = [module for module in extracted.modules() if isinstance(module, nn.BatchNorm2d)]
    found = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        expected = extracted(IMAGES)
        torch.testing.assert_close(net.eval().extract(widths)(IMAGES), expected, rtol=1e-6, atol=1e-8)
    count = IMAGES.numel() / 3
    for norm, (mean, var) in zip(norms, found, strict=True):
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(var, norm.running_var * (count - 1) / count)


@torch.library.custom_op("slimmable_laws::unheard", mutates_args=())
def unheard(x: Tensor) -> Tensor:
    """An operator that has no rule; that it is the identity nobody can know."""
    return x.clone()


@unheard.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Stranger(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return unheard(x)


@settings(
    max_examples=EXAMPLES, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(networks(Stranger()))
def test_an_unknown_operator_is_always_named(model):
    net = slimmable.convert(model, IMAGES, divisor=2, batch_norm="naive")
    named = [pin for pin in net.report.pinned if pin.operator == "slimmable_laws.unheard.default"]
    assert [each for each in net.report.unknown if each.startswith("slimmable_laws.unheard.default in ")], net.report
    if not named:  # then it holds nothing: without it, no more varies
        known = nn.Sequential(*(nn.Identity() if isinstance(module, Stranger) else module for module in model))
        assert slimmable.convert(known, IMAGES, divisor=2, batch_norm="naive").space == net.space, str(net.report)
    place = next(place for place, module in enumerate(model) if isinstance(module, Stranger))
    assert all(pin.module == str(place) and pin.line.startswith("test_conversion_laws.py:") for pin in named)
    with torch.no_grad(), net.at(net.space.smallest):
        assert torch.equal(net.extract(net.space.smallest)(IMAGES), net(IMAGES))
