"""Linear layers, normalisation, activations with parameters and embeddings, each held to the network built narrow."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import slimmable
from tests.unit.core.oracle import Case, assert_slims, images, segments

Seq = nn.Sequential
IMAGES = (images(),)
VECTORS = (torch.randn(5, 6),)
TOKENS = (torch.randn(4, 5, 6),)


def conv(*args, **options) -> nn.Module:
    return nn.Conv2d(*args, **options)


class Norm2dOfOnesOwn(nn.BatchNorm2d):
    """A batch norm with its own forward and an activation, as timm's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        normed = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        assert x.shape[1] == self.num_features
        return self.act(normed)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of images, as ConvNeXt's."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Gained(nn.Module):
    """A bare parameter for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(3, channels, 1)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.register_buffer("shift", torch.zeros(1, channels, 1, 1))
        self.last = conv(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x) * self.gain + self.shift)


class Positions(nn.Module):
    """Tokens with a class token and positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(6, channels)
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, 6, channels))
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(F.gelu(x)[:, 0])


class Words(nn.Module):
    """An embedding and a linear layer behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, channels)
        self.head = nn.Linear(channels, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words).mean(1))


class FourGroups(nn.Module):
    """Group norm in four groups, by a number in the code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.group_norm(x, 4, self.weight, self.bias)


class ChannelAttention(nn.Module):
    """Gains from a convolution that slides over the channels (ECA)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gains = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1)).sigmoid()
        return x * gains.view(x.shape[0], -1, 1, 1).expand_as(x)


def with_norm(norm, before: str = "conv", after: int = 1):
    """Channels normalised between two layers, with a non-linearity that tells positions apart."""
    first, last = {
        "conv": (lambda c: conv(3, c, 3), lambda c: conv(c, 2, 1)),
        "conv1d": (lambda c: nn.Conv1d(5, c, 3), lambda c: nn.Conv1d(c, 2, 1)),
        "conv3d": (lambda c: nn.Conv3d(2, c, 2), lambda c: nn.Conv3d(c, 2, 1)),
        "linear": (lambda c: nn.Linear(6, c), lambda c: nn.Linear(c, 2)),
    }[before]
    return lambda c: Seq(first(c), norm(c), nn.Sigmoid(), last(c))


def grouped_norm_keep(full, narrow):
    kept = segments(*[(narrow[0] // 4, full[0] // 4)] * 4)
    return {name: {0: kept} for name in ("0.weight", "0.bias", "1.weight", "1.bias")} | {"3.weight": {1: kept}}


def twice_normed(c, d):
    """Weight norm by output channels and, on a transposed convolution, by input channels."""
    return Seq(
        weight_norm(conv(3, c, 3, padding=1)),
        nn.ReLU(),
        weight_norm(nn.ConvTranspose2d(c, d, 2)),
        nn.Tanh(),
        weight_norm(conv(d, 2, 1, bias=False)),
    )


CASES = {
    "linear": Case(
        build=lambda c, d: Seq(nn.Linear(6, c), nn.ReLU(), nn.Linear(c, d, bias=False), nn.Tanh(), nn.Linear(d, 2)),
        full=(16, 12),
        narrow=((4, 12), (9, 3)),
        inputs=VECTORS,
    ),
    "linear on tokens": Case(
        build=lambda c: Seq(nn.Linear(6, c), nn.GELU(), nn.Linear(c, 2)), full=(16,), narrow=((5,),), inputs=TOKENS
    ),
    "linear after flatten": Case(
        build=lambda c, d: Seq(
            conv(3, c, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * c, d), nn.ReLU(), nn.Linear(d, 2)
        ),
        full=(8, 12),
        narrow=((3, 12), (8, 5)),
        inputs=IMAGES,
    ),
    "linear after pooling": Case(
        build=lambda c: Seq(conv(3, c, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 2)),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
    ),
    "linear after pooling to 2 x 2": Case(
        build=lambda c: Seq(conv(3, c, 3), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * c, 2)),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
    ),
    "linear on patches": Case(
        build=lambda c, d: Seq(
            conv(3, c, 2, stride=2), nn.Flatten(2), nn.Conv1d(c, d, 1), nn.Flatten(), nn.Linear(9 * d, 2)
        ),
        full=(8, 8),
        narrow=((3, 5),),
        inputs=IMAGES,
    ),
    "batch norm": Case(build=with_norm(nn.BatchNorm2d), full=(16,), narrow=((4,), (9,)), inputs=IMAGES),
    "batch norm without gains": Case(
        build=with_norm(lambda c: nn.BatchNorm2d(c, affine=False)), full=(16,), narrow=((4,),), inputs=IMAGES
    ),
    "batch norm without statistics": Case(
        build=with_norm(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
        full=(16,),
        narrow=((4,),),
        inputs=IMAGES,
    ),
    "batch norm 1-d on vectors": Case(
        build=with_norm(nn.BatchNorm1d, "linear"), full=(16,), narrow=((4,),), inputs=VECTORS
    ),
    "batch norm 1-d on signals": Case(
        build=with_norm(nn.BatchNorm1d, "conv1d"), full=(16,), narrow=((4,),), inputs=TOKENS
    ),
    "batch norm 3-d": Case(
        build=with_norm(nn.BatchNorm3d, "conv3d"), full=(8,), narrow=((3,),), inputs=(torch.randn(3, 2, 4, 4, 4),)
    ),
    "batch norm with its own forward": Case(
        build=with_norm(Norm2dOfOnesOwn), full=(16,), narrow=((4,),), inputs=IMAGES
    ),
    "batch norm after flatten": Case(
        build=lambda c: Seq(conv(3, c, 3), nn.Flatten(), nn.BatchNorm1d(16 * c), nn.ReLU(), nn.Linear(16 * c, 2)),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
    ),
    "layer norm": Case(build=with_norm(nn.LayerNorm, "linear"), full=(16,), narrow=((4,),), inputs=TOKENS),
    "layer norm on channels of images": Case(build=with_norm(LayerNorm2d), full=(16,), narrow=((4,),), inputs=IMAGES),
    "layer norm over whole images": Case(
        build=with_norm(lambda c: nn.LayerNorm((c, 4, 4))), full=(8,), narrow=((3,),), inputs=IMAGES
    ),
    "root mean square norm": Case(build=with_norm(nn.RMSNorm, "linear"), full=(16,), narrow=((4,),), inputs=TOKENS),
    "group norm": Case(
        build=with_norm(lambda c: nn.GroupNorm(c // 4, c)), full=(16,), narrow=((4,), (12,)), inputs=IMAGES
    ),
    "group norm by a number in the code": Case(
        build=with_norm(FourGroups), full=(16,), narrow=((4,), (12,)), inputs=IMAGES, keep=grouped_norm_keep
    ),
    "efficient channel attention": Case(
        build=lambda c: Seq(conv(3, c, 3), ChannelAttention(), nn.ReLU(), conv(c, 2, 1)),
        full=(16,),
        narrow=((4,), (9,)),
        inputs=IMAGES,
    ),
    "group norm of one group": Case(
        build=with_norm(lambda c: nn.GroupNorm(1, c)), full=(16,), narrow=((4,), (9,)), inputs=IMAGES
    ),
    "instance norm": Case(
        build=with_norm(lambda c: nn.InstanceNorm2d(c, affine=True)), full=(16,), narrow=((4,),), inputs=IMAGES
    ),
    "instance norm with statistics": Case(
        build=with_norm(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
        full=(16,),
        narrow=((4,),),
        inputs=IMAGES,
    ),
    "weight norm": Case(build=twice_normed, full=(16, 12), narrow=((5, 12), (16, 3), (4, 4)), inputs=IMAGES),
    "PReLU of one slope per channel": Case(build=with_norm(nn.PReLU), full=(16,), narrow=((4,),), inputs=IMAGES),
    "PReLU of one slope": Case(build=with_norm(lambda _: nn.PReLU()), full=(16,), narrow=((4,),), inputs=IMAGES),
    "bare parameters and buffers": Case(build=Gained, full=(16,), narrow=((4,),), inputs=IMAGES),
    "tokens with positions": Case(build=Positions, full=(16,), narrow=((4,),), inputs=TOKENS),
    "embedding": Case(build=Words, full=(16,), narrow=((4,),), inputs=(torch.tensor([[1, 2, 3], [4, 5, 9]]),)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layer_slims_to_the_one_built_narrow(case):
    assert_slims(case)


def test_a_layer_whose_weight_is_computed_is_named_after_itself():
    net = slimmable.convert(twice_normed(16, 16).eval(), IMAGES)
    assert net.space.names == ("0", "2")
    assert net.report.layers == ("0", "2", "4")
    assert [(group.producers, group.consumers) for group in net.report.groups] == [(("0",), ("2",)), (("2",), ("4",))]
