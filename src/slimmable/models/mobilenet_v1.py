"""MobileNet v1 for ImageNet and for 32x32 images, in plain PyTorch."""

from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.models.units import convolution, initialise

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels at width 1 and stride of each depthwise-separable block."""


class MobileNetV1(nn.Module):
    """Convolution, 13 depthwise-separable blocks, average pool, one linear layer.

    Args:
        width: Multiplier of every channel count; each is rounded by ``make_divisible(., 8)``.
        num_classes: Size of the output.
        stem_stride: Stride of the first convolution.
        dropout: Share of the inputs of the linear layer that dropout sets to zero.
    """

    def __init__(self, *, width: float, num_classes: int, stem_stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels = make_divisible(32 * width, 8)
        layers = convolution(3, channels, stride=stem_stride)
        for base, stride in BLOCKS:
            following = make_divisible(base * width, 8)
            layers += convolution(channels, channels, stride=stride, groups=channels)
            layers += convolution(channels, following, kernel=1)
            channels = following
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        return self.classifier(self.dropout(self.pool(self.features(images_BCHW)).flatten(1)))


def mobilenet_v1(width: float = 1.0, num_classes: int = 1000) -> nn.Module:
    r"""MobileNet v1 for images of about 224x224 pixels.

    With stem and block outputs :math:`c_0 \ldots c_{13}`, each ``make_divisible(base * width, 8)``, convolutions and
    linear layer hold :math:`27 c_0 + \sum_i (9 c_{i-1} + c_{i-1} c_i) + (c_{13} + 1) K` parameters, the batch norms
    :math:`2 c_0 + 2 \sum_i (c_{i-1} + c_i)` more.

    Args:
        width: Multiplier of every channel count.
        num_classes: Size :math:`K` of the output.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        569, 325, 150 and 41 million multiply-accumulates at widths 1, 0.75, 0.5 and 0.25 (224x224).

    References:
        Howard et al. MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications. 2017, Table 1.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = mobilenet_v1()
    >>> sum(p.numel() for p in net.parameters()) == 4_210_088 + 21_888
    True
    """
    return MobileNetV1(width=width, num_classes=num_classes, stem_stride=2)


def mobilenet_v1_cifar(width: float = 1.0, num_classes: int = 100, dropout: float = 0.0) -> nn.Module:
    """MobileNet v1 for 32x32 images: a stem of stride 1, all else unchanged, so the last map is 2x2.

    Args:
        width: Multiplier of every channel count.
        num_classes: Size of the output.
        dropout: Share of the inputs of the linear layer that dropout sets to zero.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        46.4 million multiply-accumulates at width 1, 3.4 million at 0.25 (32x32, 100 classes).

    References:
        Optimizing Slimmable Networks for Multiple Target Platforms, Table 1.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = mobilenet_v1_cifar()
    >>> sum(p.numel() for p in net.parameters()) == 4_210_088 + 21_888 - 1025 * 900
    True
    """
    return MobileNetV1(width=width, num_classes=num_classes, stem_stride=1, dropout=dropout)
