"""ResNet-20, 32, 44 and 56 for 32x32 images, and the smaller 8 and 14, in plain PyTorch."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.models.units import initialise

Shortcut = Literal["projection", "zero-pad"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Where the shape changes, ``projection`` is a strided 1x1 convolution with its own batch norm, or ``None`` for a
    strided identity filled up with zero channels.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.projection: nn.Module | None = None
        if shortcut == "projection" and (stride != 1 or inputs != outputs):
            self.projection = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of ``(B, outputs, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x_BCHW)))
        y = self.bn2(self.conv2(y))
        if self.projection is not None:
            return F.relu(y + self.projection(x_BCHW))
        if self.stride != 1:
            x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        missing = y.shape[1] - x_BCHW.shape[1]
        if missing:
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, 0, missing))
        return F.relu(y + x_BCHW)


class ResNetCifar(nn.Module):
    """Convolution, three stages of basic blocks at 16, 32 and 64 channels times ``width``, pool, linear layer."""

    def __init__(self, *, depth: int, width: float, num_classes: int, shortcut: Shortcut) -> None:
        super().__init__()
        channels = make_divisible(16 * width, 8)
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        blocks: list[nn.Module] = []
        for base in (16, 32, 64):
            outputs = make_divisible(base * width, 8)
            for index in range((depth - 2) // 6):
                stride = 2 if base != 16 and index == 0 else 1
                blocks.append(BasicBlock(channels, outputs, stride=stride, shortcut=shortcut))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(images_BCHW)))
        return self.fc(self.pool(self.blocks(x)).flatten(1))


def resnet_cifar(
    depth: Literal[8, 14, 20, 32, 44, 56] = 20,
    width: float = 1.0,
    *,
    num_classes: int = 10,
    shortcut: Shortcut = "projection",
) -> nn.Module:
    r"""Residual network of ``depth = 6n + 2`` layers for 32x32 images.

    With stage widths :math:`c_s = \mathrm{make\_divisible}(16 \cdot 2^s \cdot \mathrm{width}, 8)`, maps of
    :math:`h_s = 32 / 2^s` pixels a side and zero-padding shortcuts, the network needs

    .. math:: 27 h_0^2 c_0 + \sum_s 9 h_s^2 \left( c_{s-1} c_s + (2n - 1) c_s^2 \right) + c_2 K, \qquad c_{-1} = c_0

    multiply-accumulates; the projections add :math:`h_s^2 c_{s-1} c_s` for the last two stages.

    Args:
        depth: Layers that hold weights, projections not counted.
        width: Multiplier of every channel count.
        num_classes: Size :math:`K` of the output.
        shortcut: Where a stage begins: a 1x1 convolution with batch norm, under which stage widths vary freely, or a
            subsampled identity filled up with zero channels, as in the original, under which they must not decrease.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        40.56, 68.87, 97.18 and 125.49 million multiply-accumulates at depths 20, 32, 44 and 56 with zero padding and
        100 classes.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, Section 4.2.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnet_cifar(20, shortcut="zero-pad")
    >>> sum(p.numel() for p in net.parameters() if p.dim() == 4)
    267696
    >>> 9 * (3 * 16 + 6 * 16**2 + (16 * 32 + 5 * 32**2) + (32 * 64 + 5 * 64**2))
    267696
    """
    return ResNetCifar(depth=depth, width=width, num_classes=num_classes, shortcut=shortcut)
