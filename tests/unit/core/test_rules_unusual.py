"""Networks that use operators in ways of their own, each held to the network built narrow, or held and named."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from tests.unit.core.oracle import Case, assert_slims, images, segments

IMAGES = (images(),)


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels are standardised, as in ResNetV2 of BiT."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


class Between(nn.Module):
    """Something between a convolution to ``channels`` and one from ``out`` of them."""

    def __init__(self, channels: int, out: int | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 1), nn.Conv2d(out or channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x).tanh()))

    def between(self, x: Tensor) -> Tensor:
        return x


class Blurred(Between):
    """A fixed low-pass filter for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("kernel", torch.tensor([[1.0, 2, 1]] * 3).repeat(channels, 1, 1, 1) / 12)

    def between(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel, stride=2, groups=x.shape[1])


class BlurredByBatch(Between):
    """The same filter with the channels moved into the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3) / 9)

    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.conv2d(x.reshape(n * c, 1, h, w), self.kernel, padding=1).view(n, c, h, w)


class Repeated(Between):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels)

    def between(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2, 1, 1)


class Interleaved(Between):
    """Positive and negative parts, channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels)

    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return torch.stack([x.relu(), (-x).relu()], 2).view(n, 2 * c, h, w)


class InPlace(Between):
    """Every channel twice, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels)

    def between(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 1).cumsum(3).tanh()


class Regions(Between):
    """Parts of the code run in full precision, and without gradients."""

    def between(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            gate, scale = x.mean((2, 3), keepdim=True).sigmoid(), x.abs().amax((2, 3), keepdim=True)
        with torch.no_grad():
            shift = x.mean()
        return x * gate / (scale + 1) - shift


class Scaled(Between):
    """A gain for each channel, shaped by a tuple that the code keeps (MetaFormer)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale, self.shape = nn.Parameter(torch.ones(channels)), (channels, 1, 1)

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class Split(nn.Module):
    """Parts of a width that the code keeps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.split(self.width, 1)
        return torch.cat([one + other, other], 1)


class TwoNames(Between):
    """A module that the network knows by two names, and calls by the second."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.one = Split(channels // 2)
        self.nested = nn.ModuleDict({"same": self.one})

    def between(self, x: Tensor) -> Tensor:
        return self.nested["same"](x)


class Matrices(nn.Module):
    """Bare matrices, and a product of activations."""

    def __init__(self, channels: int, keys: int) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(6, channels)), nn.Parameter(torch.zeros(channels, 2))
        self.keys = nn.Linear(6, keys)
        self.queries = nn.Linear(6, keys)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.queries(x) @ self.keys(x).transpose(1, 2), -1)
        return weights @ ((x @ self.up).relu() @ self.down)


class Pooled(Between):
    """Mean and maximum over space and over channels, standardisation by hand."""

    def between(self, x: Tensor) -> Tensor:
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-3).sqrt()
        return x * torch.sigmoid(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).sum(1, keepdim=True))


class Normalised(Between):
    def between(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * x.cumsum(1)


class TwoWays(Between):
    """Branches by a fixed switch of the code, modules in a loop, in-place operators."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(channels, 1, 1)) for _ in range(3)])

    def between(self, x: Tensor) -> Tensor:
        for place, scale in enumerate(self.scales):
            x = x.clone().mul_(scale) if place % 2 else F.relu_(x * scale)
            x = (x + 0.1).clamp_(max=2.0)
        return x


class Flattened(nn.Module):
    """Flattened maps of two branches joined, then a linear layer."""

    def __init__(self, a: int, b: int, hidden: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3), nn.Conv2d(3, b, 3, stride=2)
        self.hidden, self.head = nn.Linear(16 * a + 4 * b, hidden), nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x).flatten(1), self.b(x).flatten(1)], 1)
        return self.head(self.hidden(joined).relu())


CASES = {
    "standardised kernels": Case(
        build=lambda a, b: nn.Sequential(StandardisedConv(3, a, 3), nn.ReLU(), StandardisedConv(a, b, 3), nn.ReLU(),
                                         nn.Conv2d(b, 2, 1)),
        full=(16, 8), narrow=((4, 8), (9, 3)), inputs=IMAGES,
    ),
    "blur": Case(build=Blurred, full=(16,), narrow=((5,),), inputs=IMAGES),
    "blur by batch": Case(build=BlurredByBatch, full=(16,), narrow=((5,),), inputs=IMAGES),
    "repeated channels": Case(
        build=Repeated, full=(16,), narrow=((5,),), inputs=IMAGES,
        keep=lambda full, narrow: {"last.weight": {1: segments(*[(narrow[0], full[0])] * 2)}},
    ),
    "interleaved channels": Case(build=Interleaved, full=(16,), narrow=((5,),), inputs=IMAGES),
    "channels side by side": Case(
        build=InPlace, full=(16,), narrow=((5,),), inputs=IMAGES,
        keep=lambda full, narrow: {"last.weight": {1: segments((2 * narrow[0], 2 * full[0]))}},
    ),
    "regions": Case(build=Regions, full=(16,), narrow=((5,),), inputs=IMAGES),
    "gains in a shape that the code keeps": Case(build=Scaled, full=(16,), narrow=((5,),), inputs=IMAGES),
    "a module of two names": Case(
        build=TwoNames,
        full=(16,),
        narrow=((6,), (10,)),
        inputs=IMAGES,
        keep=lambda full, narrow: {
            name: {dim: segments(*[(narrow[0] // 2, full[0] // 2)] * 2)}
            for name, dim in (("first.weight", 0), ("first.bias", 0), ("last.weight", 1))
        },
    ),
    "bare matrices": Case(
        build=Matrices, full=(16, 12), narrow=((16, 3), (5, 12)), inputs=(torch.randn(2, 5, 6),)
    ),
    "standardisation by hand": Case(build=Pooled, full=(16,), narrow=((5,),), inputs=IMAGES),
    "normalisation across channels": Case(build=Normalised, full=(16,), narrow=((5,),), inputs=IMAGES),
    "in-place operators": Case(build=TwoWays, full=(16,), narrow=((5,),), inputs=IMAGES),
    "flattened branches": Case(
        build=Flattened, full=(8, 6, 12), narrow=((3, 6, 12), (8, 2, 5)), inputs=IMAGES,
        keep=lambda full, narrow: {
            "hidden.weight": {1: segments((16 * narrow[0], 16 * full[0]), (4 * narrow[1], 4 * full[1]))}
        },
    ),
}  # fmt: skip


class Coincidences(nn.Module):
    """Numbers that happen to be as large as the width, beside one that is the width."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 1), nn.Linear(channels, 2)
        self.channels = channels
        self.half = channels // 2
        self.stride = self.steps = self.image_size = 32
        self.gain, self.scales = 16, [32, 16]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if h.shape[1] != self.channels:
            raise ValueError("the channels are not those that the layer was made for")
        for _ in range(self.steps):
            h = h * 1.01
        one, other = h.view(len(h), -1, *h.shape[2:])[:, : self.half], h[:, self.half :]
        pooled = torch.cat([one * self.gain, other], 1).flatten(2).mean(2)
        return self.last(pooled) * self.stride / self.scales[0]


def test_only_numbers_that_the_code_passes_as_sizes_follow_them():
    net = slimmable.convert(Coincidences(), IMAGES)
    with net.at(net.space.smallest):
        assert (net.model.channels, net.model.half) == (16, 8)
        kept = {name: getattr(net.model, name) for name in ("stride", "steps", "image_size", "gain", "scales")}
    assert kept == {"stride": 32, "steps": 32, "image_size": 32, "gain": 16, "scales": [32, 16]}


def test_bare_parameters_are_named_in_the_report():
    net = slimmable.convert(Matrices(16, 12), CASES["bare matrices"].inputs)
    assert "out of up; into down" in str(net.report)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_network_slims_to_the_one_built_narrow(case):
    assert_slims(case)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mix, self.head = (
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Bilinear(16, 16, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.a(x), self.b(x)))


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("nlc,nlc->nlc", self.a(x), self.b(x)))


class TopK(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).topk(4, -1).values)


class Responses(nn.Module):
    """Local response norm looks at neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv1d(5, 16, 1), nn.Conv1d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.local_response_norm(self.a(x), 3))


class Sorted(nn.Module):
    """Channels chosen by a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 2)
        self.register_buffer("order", torch.randperm(16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).index_select(-1, self.order).relu())


@pytest.mark.parametrize("network", [Bilinear, Einsum, TopK, Responses, Sorted])
def test_what_has_no_rule_is_held_and_named_or_proved(network):
    """Whatever is decided, the converted network equals the given one, and runs wherever its space lets it."""
    x = torch.randn(2, 5, 6)
    model = network().eval()
    net = slimmable.convert(model, x, divisor=1)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        for widths in (net.space.smallest, net.space.largest):
            with net.at(widths):
                assert torch.equal(net.extract(widths)(x), net(x))
    held = [pin for pin in net.report.pinned if pin.layer == "a"]
    assert net.space.groups or (held and all(pin.line for pin in held))
