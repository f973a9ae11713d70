"""MobileNet v2, in plain PyTorch."""

from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.models.units import convolution, initialise

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels at width 1, number of blocks and first stride of each stage."""


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a depthwise one, and a 1x1 convolution without activation.

    Where the shape stays, the block's input is added.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        expanded = expansion * inputs
        layers = [nn.Sequential(*convolution(inputs, expanded, kernel=1))] if expansion != 1 else []
        self.conv = nn.Sequential(
            *layers,
            nn.Sequential(*convolution(expanded, expanded, stride=stride, groups=expanded)),
            *convolution(expanded, outputs, kernel=1, activation=None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of ``(B, outputs, H / stride, W / stride)``."""
        y = self.conv(x_BCHW)
        return x_BCHW + y if self.adds else y


class MobileNetV2(nn.Module):
    """Convolution, 17 inverted residuals, a 1x1 convolution to 1280 channels, pool, linear layer."""

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        channels = make_divisible(32 * width, 8)
        features: list[nn.Module] = [nn.Sequential(*convolution(3, channels, stride=2))]
        for expansion, base, count, stride in STAGES:
            outputs = make_divisible(base * width, 8)
            for index in range(count):
                step = 1 if index else stride
                features.append(InvertedResidual(channels, outputs, expansion=expansion, stride=step))
                channels = outputs
        last = make_divisible(1280 * max(width, 1.0), 8)
        self.features = nn.Sequential(*features, nn.Sequential(*convolution(channels, last, kernel=1)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        return self.classifier(self.pool(self.features(images_BCHW)).flatten(1))


def mobilenet_v2(width: float = 1.0, num_classes: int = 1000) -> nn.Module:
    r"""MobileNet v2 for images of about 224x224 pixels.

    Outputs are ``make_divisible(base * width, 8)``, expanded widths 6 times the block's *rounded* input; the last
    convolution keeps its 1280 channels below width 1. Parameters have the names that torchvision gives them, so that
    its weights can be loaded.

    A converted network has these widths with ``convert(net, images, exclude=["features.18"],
    follow=mobilenet_v2_expansions())``.

    Args:
        width: Multiplier of channel counts.
        num_classes: Size of the output.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        301, 209, 97 and 59 million multiply-accumulates at widths 1, 0.75, 0.5 and 0.35 (224x224).

    References:
        Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018,
        Table 2.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = mobilenet_v2()
    >>> sum(p.numel() for p in net.parameters()) == 3_470_760 + 34_112
    True
    """
    return MobileNetV2(width=width, num_classes=num_classes)
