"""Convolutions of every kind, each held to the network built narrow by hand."""

import pytest
import torch
from torch import nn

from tests.unit.core.oracle import Case, assert_slims, images, segments

Seq = nn.Sequential
SIGNAL = (torch.randn(4, 3, 9),)
VOLUME = (torch.randn(4, 3, 5, 5, 5),)
IMAGES = (images(),)


def spread(groups: int, narrow: int, full: int) -> list[int]:
    """The first channels of each of ``groups`` groups."""
    return segments(*[(narrow // groups, full // groups)] * groups)


def grouped_keep(full, narrow):
    """A convolution in 4 groups keeps the first channels of each, and so does the layer before it."""
    inner, outer = spread(4, narrow[0], full[0]), spread(4, narrow[1], full[1])
    return {"0.weight": {0: inner}, "0.bias": {0: inner}, "2.weight": {0: outer}, "2.bias": {0: outer}} | {
        "4.weight": {1: outer}
    }


def grouped_transposed_keep(full, narrow):
    inner, outer = spread(2, narrow[0], full[0]), spread(2, narrow[1] * 2, full[1] * 2)
    return {"0.weight": {0: inner}, "0.bias": {0: inner}, "2.weight": {0: inner}, "2.bias": {0: outer}} | {
        "4.weight": {1: outer}
    }


def conv(*args, **options) -> nn.Module:
    return nn.Conv2d(*args, **options)


CASES = {
    "1-d": Case(
        build=lambda c, d: Seq(nn.Conv1d(3, c, 3), nn.ReLU(), nn.Conv1d(c, d, 3, dilation=2), nn.Conv1d(d, 2, 1)),
        full=(16, 12),
        narrow=((4, 12), (9, 5)),
        inputs=SIGNAL,
    ),
    "2-d, strided and padded": Case(
        build=lambda c, d: Seq(
            conv(3, c, 3, stride=2, padding=1), nn.ReLU(), conv(c, d, 3, padding="same"), conv(d, 2, 1)
        ),
        full=(16, 12),
        narrow=((4, 3), (16, 5)),
        inputs=IMAGES,
    ),
    "2-d without bias": Case(
        build=lambda c: Seq(conv(3, c, 3, bias=False), nn.Tanh(), conv(c, 2, 1, bias=False)),
        full=(16,),
        narrow=((5,),),
        inputs=IMAGES,
    ),
    "3-d": Case(
        build=lambda c, d: Seq(nn.Conv3d(3, c, 3), nn.ReLU(), nn.Conv3d(c, d, 2), nn.Conv3d(d, 2, 1)),
        full=(8, 8),
        narrow=((2, 5),),
        inputs=VOLUME,
    ),
    "without a batch axis": Case(
        build=lambda c: Seq(conv(3, c, 3), nn.ReLU(), conv(c, 2, 3)),
        full=(16,),
        narrow=((5,),),
        inputs=(images()[0],),
    ),
    **{
        f"padding by {mode}": Case(
            build=lambda c, mode=mode: Seq(conv(3, c, 3), nn.ReLU(), conv(c, 2, 3, padding=(1, 2), padding_mode=mode)),
            full=(8,),
            narrow=((3,),),
            inputs=IMAGES,
        )
        for mode in ("reflect", "replicate", "circular")
    },
    "transposed 1-d": Case(
        build=lambda c: Seq(nn.ConvTranspose1d(3, c, 3, stride=2), nn.ReLU(), nn.ConvTranspose1d(c, 2, 3)),
        full=(8,),
        narrow=((3,),),
        inputs=SIGNAL,
    ),
    "transposed 2-d": Case(
        build=lambda c, d: Seq(
            nn.ConvTranspose2d(3, c, 3, stride=2, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(c, d, 2),
            conv(d, 2, 1),
        ),
        full=(8, 12),
        narrow=((3, 5), (8, 3)),
        inputs=IMAGES,
    ),
    "transposed 3-d": Case(
        build=lambda c: Seq(nn.ConvTranspose3d(3, c, 2), nn.ReLU(), nn.ConvTranspose3d(c, 2, 2)),
        full=(8,),
        narrow=((3,),),
        inputs=VOLUME,
    ),
    "depthwise": Case(
        build=lambda c, d: Seq(
            conv(3, c, 1), nn.ReLU(), conv(c, c, 3, groups=c), nn.ReLU6(), conv(c, d, 1), conv(d, 2, 1)
        ),
        full=(16, 8),
        narrow=((4, 8), (11, 3)),
        inputs=IMAGES,
    ),
    "depthwise with a multiplier": Case(
        build=lambda c: Seq(conv(3, c, 1), nn.ReLU(), conv(c, 3 * c, 3, groups=c), nn.ReLU(), conv(3 * c, 2, 1)),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
    ),
    "depthwise, transposed": Case(
        build=lambda c: Seq(
            conv(3, c, 1), nn.ReLU(), nn.ConvTranspose2d(c, 2 * c, 3, groups=c), nn.ReLU(), conv(2 * c, 2, 1)
        ),
        full=(8,),
        narrow=((3,),),
        inputs=IMAGES,
    ),
    "grouped": Case(
        build=lambda c, d: Seq(conv(3, c, 1), nn.ReLU(), conv(c, d, 3, groups=4), nn.ReLU(), conv(d, 2, 1)),
        full=(16, 24),
        narrow=((4, 24), (12, 8)),
        inputs=IMAGES,
        keep=grouped_keep,
    ),
    "grouped, transposed": Case(
        build=lambda c, d: Seq(
            conv(3, c, 1), nn.ReLU(), nn.ConvTranspose2d(c, 2 * d, 3, groups=2), nn.ReLU(), conv(2 * d, 2, 1)
        ),
        full=(16, 6),
        narrow=((4, 6), (12, 3)),
        inputs=IMAGES,
        keep=grouped_transposed_keep,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convolution_slims_to_the_one_built_narrow(case):
    assert_slims(case)
