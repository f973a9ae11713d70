"""A small residual network for the 8x8 handwritten digits."""

import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.models.resnet_cifar import BasicBlock
from slimmable.models.units import initialise


class DigitsCNN(nn.Module):
    """Convolution and two residual blocks that halve the map: 8x8x32, 4x4x64, 2x2x128 at width 1."""

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        small, middle, large = (make_divisible(base * width, 8) for base in (32, 64, 128))
        self.conv1 = nn.Conv2d(1, small, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(small)
        self.blocks = nn.Sequential(
            BasicBlock(small, middle, stride=2, shortcut="projection"),
            BasicBlock(middle, large, stride=2, shortcut="projection"),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(large, num_classes)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(images_BCHW)))
        return self.fc(self.pool(self.blocks(x)).flatten(1))


def digits_cnn(width: float = 1.0, num_classes: int = 10) -> nn.Module:
    r"""Residual network for one-channel 8x8 images that trains in seconds on a CPU.

    With :math:`a, b, c` = 32, 64, 128 times ``width``, rounded to multiples of 8, an 8x8 image costs

    .. math:: 64 \cdot 9 a + 16 (10 a b + 9 b^2) + 4 (10 b c + 9 c^2) + 10 c

    multiply-accumulates. At width 0.25 every layer keeps at least 8 channels.

    Args:
        width: Multiplier of every channel count.
        num_classes: Size of the output.

    Returns:
        Network from ``(B, 1, H, W)`` to ``(B, num_classes)``, freshly initialised.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = digits_cnn()
    >>> sum(p.numel() for p in net.parameters() if p.dim() == 4)
    287008
    >>> 9 * 32 + 10 * 32 * 64 + 9 * 64**2 + 10 * 64 * 128 + 9 * 128**2
    287008
    """
    return DigitsCNN(width=width, num_classes=num_classes)
