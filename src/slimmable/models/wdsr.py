"""WDSR, super-resolution with wide activations, in plain PyTorch."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from slimmable.core.space import make_divisible

Variant = Literal["A", "B"]

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean red, green and blue of the training images of DIV2K."""

SKIP = 5
"""Side of the kernels of the skip convolution."""

FIRST_GAIN = 0.1
"""By what the blocks' share of the output is multiplied before training."""


def normed(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Convolution under weight norm that keeps the size of the map."""
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))


class WideBlock(nn.Module):
    """A convolution that expands, the only activation, and convolutions back, added to the input."""

    def __init__(self, channels: int, *, variant: Variant) -> None:
        super().__init__()
        if variant == "A":
            self.expand = normed(channels, 4 * channels, 3)
            self.contract = normed(4 * channels, channels, 3)
        else:
            low = make_divisible(0.8 * channels, 8)
            self.expand = normed(channels, 6 * channels, 1)
            self.contract = nn.Sequential(normed(6 * channels, low, 1), normed(low, channels, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of the same shape."""
        return x_BCHW + self.contract(F.relu(self.expand(x_BCHW)))


class WDSR(nn.Module):
    """A head, blocks, and a convolution whose channels are shuffled into pixels; beside them a 5x5 convolution."""

    mean: Tensor

    def __init__(self, *, scale: int, width: float, variant: Variant, blocks: int) -> None:
        super().__init__()
        channels, pixels = make_divisible(64 * width, 8), 3 * scale**2
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.head = normed(3, channels, 3)
        self.body = nn.Sequential(*(WideBlock(channels, variant=variant) for _ in range(blocks)))
        self.tail = normed(channels, pixels, 3)
        self.skip = normed(3, pixels, SKIP)
        self.shuffle = nn.PixelShuffle(scale)
        self._begin_near_bicubic(scale)

    @torch.no_grad()
    def _begin_near_bicubic(self, scale: int) -> None:
        kernels = bicubic_kernels(scale)
        weight = torch.zeros(3, scale**2, 3, SKIP, SKIP)
        for colour in range(3):
            weight[colour, :, colour] = kernels
        self.skip.weight = weight.flatten(0, 1)
        for layer in (self.skip, self.tail):
            layer.get_parameter("bias").zero_()
        self.tail.get_parameter("parametrizations.weight.original0").mul_(FIRST_GAIN)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, scale H, scale W)``."""
        x = images_BCHW - self.mean
        return self.shuffle(self.tail(self.body(self.head(x))) + self.skip(x)) + self.mean


def bicubic_kernels(scale: int) -> Tensor:
    """Kernels ``(scale^2, 5, 5)`` by which the pixels that a pixel becomes are computed in bicubic up-scaling."""
    middle, around = SKIP - 1, SKIP // 2
    points = torch.zeros(SKIP**2, 1, 2 * SKIP - 1, 2 * SKIP - 1)
    for row in range(SKIP):
        for column in range(SKIP):
            points[row * SKIP + column, 0, middle - around + row, middle - around + column] = 1
    # With antialiasing the kernel's coefficient is that of Pillow, -1/2.
    large = F.interpolate(points, scale_factor=float(scale), mode="bicubic", antialias=True)
    inside = slice(middle * scale, (middle + 1) * scale)
    return large[:, 0, inside, inside].permute(1, 2, 0).reshape(scale**2, SKIP, SKIP)


def wdsr(scale: Literal[2, 3, 4] = 2, width: float = 1.0, *, variant: Variant = "A", blocks: int = 8) -> nn.Module:
    r"""WDSR for images with values between 0 and 1, with 64 features at width 1.

    With :math:`n` = ``make_divisible(64 * width, 8)`` features, variant A expands them to :math:`4n` and comes back by
    3x3 convolutions; variant B expands them to :math:`6n` by a 1x1 convolution and comes back by way of :math:`l` =
    ``make_divisible(0.8 * n, 8)``. With :math:`N` blocks and scale :math:`s`, a pixel of the input needs

    .. math:: 27 n + N b + (27 n + 225) s^2, \qquad b_A = 72 n^2, \quad b_B = 6 n^2 + 15 n l

    multiply-accumulates. There is no batch norm to calibrate; weight norm takes the length of what is active.

    A fresh network is near bicubic up-scaling, which the skip convolution holds; the paper does not say how it begins.
    From random weights a few hundred steps pass before the images are as good as that.

    A converted network has these widths with ``convert(net, images, min_ratio=0.5, follow=wdsr_expansions(variant))``.
    US-Net runs from 32 to 64 features, with 8 blocks and scale 2.

    Args:
        scale: How many times larger the output is.
        width: Multiplier of every channel count.
        variant: ``"A"`` or ``"B"``.
        blocks: Number of blocks.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, 3, scale H, scale W)``, freshly initialised.

    Cost:
        5.5 and 1.4 billion multiply-accumulates at 64 and 32 features (variant A, scale 2, 48x48).

    References:
        Yu, Fan, Yang, Xu, Wang, Wang, Huang. Wide Activation for Efficient and Accurate Image Super-Resolution. 2018.
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, section 5.1.

    >>> import torch
    >>> wdsr(3, 0.5)(torch.rand(1, 3, 8, 6)).shape
    torch.Size([1, 3, 24, 18])
    """
    return WDSR(scale=scale, width=width, variant=variant, blocks=blocks)
