"""ResNet-50, in plain PyTorch."""

from torch import Tensor, nn

from slimmable.models.units import initialise

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels at width 1 (outputs are four times as many), number of blocks and first stride of each stage."""


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut: a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if projection:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of ``(B, outputs, H / stride, W / stride)``."""
        y = self.relu(self.bn1(self.conv1(x_BCHW)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))


class ResNet50(nn.Module):
    """Convolution and max-pool, four stages of bottlenecks, pool, linear layer."""

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        channels = int(64 * width)
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages: list[nn.Module] = []
        for base, count, stride in STAGES:
            inner, outputs = int(base * width), int(4 * base * width)
            blocks: list[nn.Module] = []
            for index in range(count):
                step = 1 if index else stride
                blocks.append(Bottleneck(channels, inner, outputs, stride=step, projection=index == 0))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of shape ``(B, num_classes)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images_BCHW))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet50(width: float = 1.0, num_classes: int = 1000) -> nn.Module:
    r"""ResNet-50 for images of about 224x224 pixels, with the stride in the 3x3 convolutions.

    Every channel count is ``int(base * width)``. Parameters have the names that torchvision gives them, so that its
    weights can be loaded. With stages :math:`s` of inner width :math:`c_s = 64 \cdot 2^s`, :math:`n_s` blocks, maps of
    :math:`h_s` pixels a side and :math:`C_s = 4 c_s`, :math:`C_{-1} = c_0`, :math:`h_{-1} = h_0`, width 1 needs

    .. math:: 147 (2 h_0)^2 c_0 + \sum_s \left( h_{s-1}^2 C_{s-1} c_s + h_s^2 \left( 9 n_s c_s^2 + n_s c_s C_s
        + (n_s - 1) C_s c_s + C_{s-1} C_s \right) \right) + C_3 K

    multiply-accumulates.

    Args:
        width: Multiplier of every channel count.
        num_classes: Size :math:`K` of the output.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, num_classes)``, freshly initialised.

    Cost:
        4.1, 2.3, 1.1 and 0.28 billion multiply-accumulates at widths 1, 0.75, 0.5 and 0.25 (224x224).

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, Table 1.
        Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019 (widths).

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnet50()
    >>> sum(p.numel() for p in net.parameters()) == 25_503_912 + 53_120
    True
    """
    return ResNet50(width=width, num_classes=num_classes)
