"""MobileNet v3-Large, in plain PyTorch."""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.models.units import Layer, convolution, initialise

NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


def relu() -> nn.Module:
    """The activation of the first blocks, in place."""
    return nn.ReLU(inplace=True)


def hard_swish() -> nn.Module:
    """The activation of all others, in place."""
    return nn.Hardswish(inplace=True)


class Row(NamedTuple):
    """A block: its kernel, its expanded width and output at width 1, whether it has a gate, activation and stride."""

    kernel: int
    expanded: int
    outputs: int
    gated: bool
    activation: Layer
    stride: int


BLOCKS = (
    Row(3, 16, 16, False, relu, 1),
    Row(3, 64, 24, False, relu, 2),
    Row(3, 72, 24, False, relu, 1),
    Row(5, 72, 40, True, relu, 2),
    Row(5, 120, 40, True, relu, 1),
    Row(5, 120, 40, True, relu, 1),
    Row(3, 240, 80, False, hard_swish, 2),
    Row(3, 200, 80, False, hard_swish, 1),
    Row(3, 184, 80, False, hard_swish, 1),
    Row(3, 184, 80, False, hard_swish, 1),
    Row(3, 480, 112, True, hard_swish, 1),
    Row(3, 672, 112, True, hard_swish, 1),
    Row(5, 672, 160, True, hard_swish, 2),
    Row(5, 960, 160, True, hard_swish, 1),
    Row(5, 960, 160, True, hard_swish, 1),
)


class Gate(nn.Module):
    """Squeeze and excitation: every channel times a number between 0 and 1 that the means of all channels decide."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.hard_sigmoid = nn.Hardsigmoid()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of the same shape."""
        return x_BCHW * self.hard_sigmoid(self.fc2(self.relu(self.fc1(self.pool(x_BCHW)))))


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a depthwise one, a gate or none, and a 1x1 convolution without activation.

    Where the shape stays, the block's input is added.
    """

    def __init__(self, inputs: int, expanded: int, outputs: int, row: Row) -> None:
        super().__init__()
        unit = partial(convolution, activation=row.activation, norm=NORM)
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(nn.Sequential(*unit(inputs, expanded, kernel=1)))
        layers.append(nn.Sequential(*unit(expanded, expanded, kernel=row.kernel, stride=row.stride, groups=expanded)))
        if row.gated:
            layers.append(Gate(expanded, make_divisible(expanded / 4, 8)))
        layers.append(nn.Sequential(*convolution(expanded, outputs, kernel=1, activation=None, norm=NORM)))
        self.block = nn.Sequential(*layers)
        self.adds = row.stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of ``(B, outputs, H / stride, W / stride)``."""
        y = self.block(x_BCHW)
        return x_BCHW + y if self.adds else y


class MobileNetV3Large(nn.Module):
    """Convolution, 15 inverted residuals, a 1x1 convolution, pool, two linear layers."""

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        channels = make_divisible(16 * width, 8)
        unit = partial(convolution, activation=hard_swish, norm=NORM)
        features: list[nn.Module] = [nn.Sequential(*unit(3, channels, stride=2))]
        for row in BLOCKS:
            expanded, outputs = (make_divisible(base * width, 8) for base in (row.expanded, row.outputs))
            features.append(InvertedResidual(channels, expanded, outputs, row))
            channels = outputs
        hidden = make_divisible(1280 * width, 8)
        self.features = nn.Sequential(*features, nn.Sequential(*unit(channels, 6 * channels, kernel=1)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), hard_swish(), nn.Dropout(0.2), nn.Linear(hidden, num_classes)
        )
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        return self.classifier(self.pool(self.features(images_BCHW)).flatten(1))


def mobilenet_v3_large(width: float = 1.0, num_classes: int = 1000) -> nn.Module:
    r"""MobileNet v3-Large for images of about 224x224 pixels.

    Widths are ``make_divisible(base * width, 8)``; a gate squeezes the *rounded* expanded width to
    ``make_divisible(expanded / 4, 8)``, and the last convolution expands its *rounded* input 6 times. Parameters have
    the names that torchvision gives them, so that its weights can be loaded.

    A converted network has 22 independent widths and those of the 8 gates; it has the widths of this function with
    ``convert(net, images, follow=mobilenet_v3_large_expansions())``.

    Args:
        width: Multiplier of channel counts.
        num_classes: Size of the output.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        217 million multiply-accumulates at width 1 (224x224).

    References:
        Howard et al. Searching for MobileNetV3. ICCV 2019, Table 1.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = mobilenet_v3_large()
    >>> sum(p.numel() for p in net.parameters())
    5483032
    """
    return MobileNetV3Large(width=width, num_classes=num_classes)
