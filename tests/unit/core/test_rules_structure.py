"""Sums, concatenations, splits, shuffles, reshapes, sharing, containers: each held to the network built narrow."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from tests.unit.core.oracle import Case, assert_same, assert_slims, images, segments

IMAGES = (images(),)


def conv(*args, **options) -> nn.Module:
    return nn.Conv2d(*args, **options)


class Block(nn.Module):
    """A residual block with a squeeze-excitation gate."""

    def __init__(self, channels: int, inner: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.squeeze, self.excite = conv(inner, squeezed, 1), conv(squeezed, inner, 1)
        self.conv2 = conv(inner, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv1(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.conv2(y * gate)


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int, squeezed: int, inner2: int, squeezed2: int) -> None:
        super().__init__()
        self.stem = conv(3, channels, 3)
        self.blocks = nn.Sequential(Block(channels, inner, squeezed), nn.ReLU(), Block(channels, inner2, squeezed2))
        self.head = conv(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Concatenated(nn.Module):
    """Two branches and the image joined; depthwise, batch norm and a linear layer behind them."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        joined = a + b + 3
        self.a, self.b = conv(3, a, 3, padding=1), conv(3, b, 1)
        self.deep = conv(joined, joined, 3, groups=joined)
        self.norm = nn.BatchNorm2d(joined)
        self.head = nn.Linear(joined * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), F.relu(self.b(x)), x], 1)
        return self.head(F.avg_pool2d(F.relu(self.norm(self.deep(joined))), 2).flatten(1))


def concatenated_keep(full, narrow):
    pairs = [*zip(narrow, full, strict=True), (3, 3)]
    joined = segments(*pairs)
    flattened = segments(*[(4 * kept, 4 * of) for kept, of in pairs])
    names = ["deep.weight", "deep.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    return {name: {0: joined} for name in names} | {"head.weight": {1: flattened}}


class Dense(nn.Module):
    """Every layer reads all before it, as in DenseNet."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, a, 1), conv(a, b, 3, padding=1), conv(a + b, c, 3, padding=1)
        self.head = conv(a + b + c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.conv1(x)]
        for layer in (self.conv2, self.conv3):
            features.append(F.relu(layer(torch.cat(features, 1))))
        return self.head(torch.cat(features, 1))


def dense_keep(full, narrow):
    pairs = list(zip(narrow, full, strict=True))
    return {"conv3.weight": {1: segments(*pairs[:2])}, "head.weight": {1: segments(*pairs)}}


class SumOfParts(nn.Module):
    """A layer added to a concatenation takes its segments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.both = conv(3, a, 1), conv(3, b, 1), conv(3, a + b, 1)
        self.head = conv(a + b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.a(x), self.b(x)], 1) + self.both(x)))


def sum_of_parts_keep(full, narrow):
    joined = segments(*zip(narrow, full, strict=True))
    return {"both.weight": {0: joined}, "both.bias": {0: joined}, "head.weight": {1: joined}}


class Gated(nn.Module):
    """Halves of one layer: value and gate."""

    def __init__(self, channels: int, how: str) -> None:
        super().__init__()
        self.both, self.head, self.how = conv(3, 2 * channels, 1), conv(channels, 2, 1), how

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        if self.how == "glu":
            return self.head(F.glu(both, 1))
        if self.how == "chunk":
            value, gate = both.chunk(2, 1)
        elif self.how == "split":
            value, gate = both.split(both.shape[1] // 2, 1)
        elif self.how == "unflatten":
            both = both.unflatten(1, (2, -1))
            value, gate = both[:, 0], both[:, 1]
        else:
            value, gate = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        return self.head(value * torch.sigmoid(gate))


def halves_keep(full, narrow):
    both = segments(*[(narrow[0] // 2, full[0] // 2)] * 2)
    return {"both.weight": {0: both}, "both.bias": {0: both}}


class Shuffled(nn.Module):
    """A ShuffleNet block: half the channels pass, the others are convolved, then both are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.conv = conv(3, 2 * channels, 1), conv(channels, channels, 3, padding=1)
        self.head = conv(2 * channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = F.relu(self.stem(x)).chunk(2, 1)
        joined = torch.cat([passed, F.relu(self.conv(convolved))], 1)
        n, c, h, w = joined.shape
        return self.head(joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def shuffled_keep(full, narrow):
    both = segments(*[(narrow[0] // 2, full[0] // 2)] * 2)
    return {"stem.weight": {0: both}, "stem.bias": {0: both}}


class Twice(nn.Module):
    """One module called twice, and two modules with one weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.mix, self.norm = conv(3, channels, 1), conv(channels, channels, 1), nn.BatchNorm2d(channels)
        self.tied = conv(channels, channels, 1)
        self.tied.weight = self.mix.weight
        self.head = conv(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for _ in range(2):
            x = F.relu(self.norm(self.mix(x)))
        return self.head(self.tied(x))


class TiedLanguage(nn.Module):
    """An embedding whose weight is also that of the output layer."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, channels)
        self.hidden = nn.Linear(channels, hidden)
        self.back = nn.Linear(hidden, channels)
        self.head = nn.Linear(channels, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.back(F.relu(self.hidden(self.embed(words)))))


class Nested(nn.Module):
    """Containers in containers, of modules and of parameters."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"stem": nn.Sequential(conv(3, a, 1), nn.Sequential(nn.ReLU()))})
        self.layers = nn.ModuleList([nn.ModuleList([conv(a, b, 1)]), nn.ModuleDict({"x": conv(b, c, 1)})])
        self.gains = nn.ParameterList([torch.ones(a, 1, 1), torch.ones(b, 1, 1)])
        self.shifts = nn.ParameterDict({"c": nn.Parameter(torch.zeros(c, 1, 1))})
        self.head = conv(c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["stem"](x) * self.gains[0]
        x = F.relu(self.layers[0][0](x)) * self.gains[1]
        return self.head(self.layers[1]["x"](x) + self.shifts["c"])


class SeveralInputs(nn.Module):
    """Tensors, a dictionary and a list in; a dictionary with a tuple out."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.image, self.vector, self.mixed = conv(3, a, 1), nn.Linear(6, b), nn.Linear(a + b, c)
        self.head, self.aux = nn.Linear(c, 2), conv(a, 1, 1)

    def forward(self, image: Tensor, others: dict[str, Tensor], pair: list[Tensor]) -> dict[str, object]:
        features = self.image(image)
        joined = torch.cat([features.mean((2, 3)), self.vector(others["vector"] + pair[0] * pair[1])], 1)
        return {"logits": self.head(F.relu(self.mixed(joined))), "maps": (self.aux(F.relu(features)), image)}


class Upscaled(nn.Module):
    """Sub-pixel convolution up, and its inverse down."""

    def __init__(self, up: int, middle: int, down: int) -> None:
        super().__init__()
        self.up, self.middle, self.down = conv(3, 4 * up, 3, padding=1), conv(up, middle, 1), conv(4 * middle, down, 1)
        self.head = conv(down, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(F.relu(F.pixel_shuffle(self.up(x), 2)))
        return self.head(F.relu(self.down(F.pixel_unshuffle(x, 2))))


class Spatial(nn.Module):
    """Pooling, up-sampling, padding, broadcasting and reductions, none of which fixes a width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.head = conv(3, channels, 1), conv(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.max_pool2d(self.stem(x), 2), (1, 0, 0, 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear") + F.interpolate(x, size=(8, 8), mode="nearest")
        x = x - x.mean(1, keepdim=True)
        x = x / (1 + x.abs().amax((1, 2, 3), keepdim=True)) * torch.softmax(x, 1)
        return self.head(torch.where(x > 0, x, 0.1 * x).clamp(-1, 1))


class Padded(nn.Module):
    """A short-cut padded with zeros in the channel axis, as in the first residual networks on CIFAR."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.stem, self.wide, self.head = conv(3, a, 1), conv(3, a + b, 1), conv(a + b, 2, 1)
        self.extra = b

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(self.stem(x), (0, 0, 0, 0, 0, self.extra))
        return self.head(F.relu(short + self.wide(x)))


def padded_keep(full, narrow):
    wide = segments((narrow[0], full[0]), (5, 5))
    return {"wide.weight": {0: wide}, "wide.bias": {0: wide}, "head.weight": {1: wide}}


class ChannelShuffled(nn.Module):
    """PyTorch's own shuffle between grouped convolutions."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.stem, self.grouped, self.head = conv(3, a, 1), conv(a, b, 1, groups=2), conv(b, 2, 1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.shuffle(self.grouped(F.relu(self.stem(x))))))


def channel_shuffled_keep(full, narrow):
    a, b = (segments(*[(n // 2, f // 2)] * 2) for n, f in zip(narrow, full, strict=True))
    stem = {"stem.weight": {0: a}, "stem.bias": {0: a}}
    return stem | {"grouped.weight": {0: b}, "grouped.bias": {0: b}}


class Scales(nn.Module):
    """Parts of one layer, each convolved together with the one before it (Res2Net); the code keeps their width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.stem, self.head = conv(3, 3 * width, 1), conv(3 * width, 2, 1)
        self.convs = nn.ModuleList(conv(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.split(self.stem(x), self.width, 1)
        y = self.convs[0](first)
        z = second + self.convs[1](F.relu(y) + second)
        return self.head(F.relu(torch.cat([y, z, third], 1)))


def scales_keep(full, narrow):
    parts = segments(*[(narrow[0] // 3, full[0] // 3)] * 3)
    return {"stem.weight": {0: parts}, "stem.bias": {0: parts}, "head.weight": {1: parts}}


class Ghosts(nn.Module):
    """Cheap copies beside the channels of a layer, cut to the width that the code keeps (GhostNet)."""

    def __init__(self, out_chs: int, channels: int) -> None:
        super().__init__()
        self.out_chs = out_chs
        self.primary, self.cheap = conv(3, channels, 1), conv(channels, channels, 3, padding=1, groups=channels)
        self.head = conv(out_chs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return self.head(F.relu(torch.cat([x, F.relu(self.cheap(x))], 1)[:, : self.out_chs]))


def ghosts_keep(full, narrow):
    return {"head.weight": {1: segments((narrow[0], full[0]), (narrow[0], full[0]))}}


class Branches(nn.Module):
    """Parts of several widths, by a tuple of the code (InceptionNeXt) or by numbers (FasterNet)."""

    def __init__(self, one: int, other: int, rest: int, *, how: str) -> None:
        super().__init__()
        self.parts, self.one, self.others, self.how = (one, other, rest), one, other + rest, how
        self.stem = conv(3, one + other + rest, 1)
        self.a, self.b = conv(one, one, 3, padding=1), conv(other, other, 1) if how == "tuple" else nn.Identity()
        self.head = conv(one + other + rest, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.how == "tuple":
            a, b, c = x.split(self.parts, 1)
            return self.head(F.relu(torch.cat([a + self.a(a), b + self.b(b), c], 1)))
        if self.how == "list":
            a, b = x.split([self.one, self.others], 1)
        else:
            a, b = x[:, : self.one], x[:, self.one :]
        return self.head(F.relu(torch.cat([a + self.a(a), b], 1)))


def branches_keep(full, narrow):
    parts = segments(*zip(narrow, full, strict=True))
    return {"stem.weight": {0: parts}, "stem.bias": {0: parts}, "head.weight": {1: parts}}


CASES = {
    "residual sums with squeeze and excitation": Case(
        build=Residual, full=(12, 16, 4, 8, 4), narrow=((4, 16, 2, 3, 4), (12, 5, 4, 8, 1)), inputs=IMAGES
    ),
    "concatenation with the image": Case(
        build=Concatenated, full=(8, 6), narrow=((3, 6), (8, 2), (2, 5)), inputs=IMAGES, keep=concatenated_keep
    ),
    "dense connections": Case(
        build=Dense, full=(8, 6, 4), narrow=((3, 6, 1), (2, 5, 4)), inputs=IMAGES, keep=dense_keep
    ),
    "sum with a concatenation": Case(
        build=SumOfParts, full=(8, 6), narrow=((3, 6), (8, 2)), inputs=IMAGES, keep=sum_of_parts_keep
    ),
    **{
        f"halves by {how}": Case(
            build=lambda both, how=how: Gated(both // 2, how),
            full=(16,),
            narrow=((6,), (4,)),
            inputs=IMAGES,
            keep=halves_keep,
        )
        for how in ("glu", "chunk", "split", "unflatten", "slices")
    },
    "shuffled halves": Case(
        build=lambda both: Shuffled(both // 2), full=(16,), narrow=((6,),), inputs=IMAGES, keep=shuffled_keep
    ),
    "channel shuffle": Case(
        build=ChannelShuffled, full=(8, 12), narrow=((4, 12), (8, 6)), inputs=IMAGES, keep=channel_shuffled_keep
    ),
    "one module called twice, two with one weight": Case(build=Twice, full=(16,), narrow=((5,),), inputs=IMAGES),
    "an embedding tied to the output": Case(
        build=lambda hidden, channels: TiedLanguage(channels, hidden),
        full=(12, 16),
        narrow=((12, 5), (3, 16)),
        inputs=(torch.tensor([[1, 2], [3, 10]]),),
    ),
    "nested containers": Case(build=Nested, full=(8, 6, 4), narrow=((3, 6, 1), (8, 2, 4)), inputs=IMAGES),
    "several inputs and outputs": Case(
        build=SeveralInputs,
        full=(8, 6, 12),
        narrow=((3, 6, 12), (8, 2, 5)),
        inputs=(images(), {"vector": torch.randn(4, 6)}, [torch.randn(4, 6), torch.randn(4, 1)]),
        keep=lambda full, narrow: {
            "mixed.weight": {1: segments((narrow[0], full[0]), (narrow[1], full[1]))},
        },
    ),
    "pixel shuffle and its inverse": Case(
        build=lambda up, middle, down: Upscaled(up // 4, middle, down),
        full=(16, 6, 8),
        narrow=((4, 6, 8), (12, 2, 3)),
        inputs=IMAGES,
    ),
    "what is spatial": Case(build=Spatial, full=(8,), narrow=((3,),), inputs=IMAGES),
    "parts by a width that the code keeps": Case(
        build=lambda both: Scales(both // 3), full=(24,), narrow=((6,), (15,)), inputs=IMAGES, keep=scales_keep
    ),
    "ghosts": Case(
        build=lambda channels: Ghosts(2 * channels, channels),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
        keep=ghosts_keep,
    ),
    "parts by a tuple that the code keeps": Case(
        build=lambda a, b, c: Branches(a, b, c, how="tuple"),
        full=(4, 5, 7),
        narrow=((2, 5, 3), (4, 2, 7)),
        inputs=IMAGES,
        keep=branches_keep,
    ),
    **{
        f"parts by numbers that the code keeps, in {how}": Case(
            build=lambda a, c, how=how: Branches(a, 0, c, how=how),
            full=(4, 7),
            narrow=((2, 7), (3, 4)),
            inputs=IMAGES,
            keep=branches_keep,
        )
        for how in ("list", "slices")
    },
    "short-cut padded with zeros": Case(
        build=lambda a: Padded(a, 5), full=(8,), narrow=((3,),), inputs=IMAGES, keep=padded_keep
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_structure_slims_to_the_one_built_narrow(case):
    assert_slims(case)


def first(value: object) -> object:
    """The first sample of every tensor in an input."""
    if isinstance(value, Tensor):
        return value[:1]
    if isinstance(value, dict):
        return {key: first(part) for key, part in value.items()}
    return type(value)(first(part) for part in value)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_batch_of_one_says_as_much(case):
    """An axis of one position can be mistaken for many others; what is found must serve larger batches too."""
    net = slimmable.convert(case.build(*case.full).eval(), first(case.inputs), divisor=1, batch_norm="naive")
    assert net.space.largest.channels == case.full, str(net.report)
    widths = net.space.widths(case.narrow[0])
    plain = net.extract(widths)
    with torch.no_grad(), net.at(widths):
        assert_same(net(*case.inputs), plain(*case.inputs))


def test_tied_weights_stay_tied_in_the_extracted_network():
    net = assert_slims(CASES["one module called twice, two with one weight"])
    plain = net.extract(net.space.widths((5,)))
    assert plain.tied.weight is plain.mix.weight
    assert net.model.tied._parameters["weight"] is net.model.mix._parameters["weight"]
