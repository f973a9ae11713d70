"""ShuffleNet v1 with three groups, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.errors import RecipeError
from slimmable.models.units import initialise

GROUPS = 3
STAGES = ((240, 4), (480, 8), (960, 4))
"""Output channels at width 1 and number of units of each stage."""

RUNS = 5
"""Runs of channels that the shuffle makes of each group."""


class Shuffle(nn.Module):
    """Deal out the channels of every group, run by run, so that each group behind it meets all groups before it.

    With groups A, B and C of five runs each, ``A0..A4 B0..B4 C0..C4`` becomes ``A0 B0 C0 A1 B1 | C1 A2 B2 C2 A3 | B3
    C3 A4 B4 C4``. The original deals single channels, in which a narrow network is no part of a wide one: the groups
    behind it would begin between other channels at every width. Runs begin alike at all of them.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of the same shape."""
        return x_BCHW.unflatten(1, (GROUPS, RUNS, -1)).transpose(1, 2).flatten(1, 3)


class Unit(nn.Module):
    """A grouped 1x1 convolution, a shuffle, a depthwise convolution without activation, a grouped 1x1 convolution.

    The input is added or, halved by average pooling, stands in front of the result.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        middle, made = outputs // 4, outputs - inputs if stride == 2 else outputs
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.shuffle = Shuffle() if groups > 1 else nn.Identity()
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of ``(B, outputs, H / stride, W / stride)``."""
        y = self.shuffle(F.relu(self.bn1(self.conv1(x_BCHW))))
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        return F.relu(x_BCHW + y if self.pool is None else torch.cat([self.pool(x_BCHW), y], 1))


class ShuffleNetV1(nn.Module):
    """Convolution and max-pool, three stages of units, pool, linear layer."""

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        channels = int(24 * width)
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.max_pool = nn.MaxPool2d(3, stride=2)
        units: list[nn.Module] = []
        for base, count in STAGES:
            outputs = int(base * width)
            for index in range(count):
                # The stem is too narrow to be cut into groups.
                groups = GROUPS if units else 1
                units.append(Unit(channels, outputs, stride=1 if index else 2, groups=groups))
                channels = outputs
        self.units = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        x = self.max_pool(F.relu(self.bn1(self.conv1(images_BCHW))))
        return self.fc(self.pool(self.units(x)).flatten(1))


def shufflenet_v1(width: float = 1.0, num_classes: int = 1000) -> nn.Module:
    r"""ShuffleNet v1 with three groups for images of about 224x224 pixels.

    The stem has ``int(24 * width)`` channels, the stages :math:`c_s` = ``int(base * width)`` with bases 240, 480 and
    960, the middle of a unit :math:`c_s / 4`. The first 1x1 convolution of all is not grouped.

    The shuffle moves runs of channels (a fifth of a group each) where the original moves single ones: under the
    original a narrow network is no part of a wide one. Counts are the original's.

    A converted network keeps the first channels of every run, in all groups alike: an eighth of the width of the stem
    and of the stages at a time, and 15 channels in the middle of a unit (``convert(..., divisor=1)``).

    Args:
        width: Multiplier of every channel count, a multiple of 0.25 (the published ones are 0.5, 1 and 2).
        num_classes: Size of the output.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Raises:
        RecipeError: The channels at ``width`` do not come in groups and runs.

    Cost:
        523, 137 and 38 million multiply-accumulates at widths 2, 1 and 0.5 (224x224).

    References:
        Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices. CVPR
        2018, Table 1 (three groups).

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = shufflenet_v1()
    >>> sum(p.numel() for p in net.parameters()) == 1_841_248 + 24_480
    True
    """
    if not width > 0 or not float(4 * width).is_integer():
        raise RecipeError(
            f"shufflenet_v1(width={width}): its channels come in {GROUPS} groups of {RUNS} runs at multiples of 0.25 "
            "only; build it at one of them, or let convert() vary the width"
        )
    return ShuffleNetV1(width=width, num_classes=num_classes)
