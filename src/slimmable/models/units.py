"""What several of the networks are made of."""

from collections.abc import Callable

from torch import nn

Layer = Callable[[], nn.Module]
"""Makes an activation."""


def relu6() -> nn.Module:
    """The activation of the first two MobileNets, in place."""
    return nn.ReLU6(inplace=True)


def convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Layer | None = relu6,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> list[nn.Module]:
    """Convolution that keeps the size of the map but for its stride, batch norm, and an activation or none."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        norm(outputs),
    ]
    return layers if activation is None else [*layers, activation()]


def initialise(model: nn.Module) -> None:
    """Draw the kernels of all convolutions so that gradients keep their size behind ReLUs.

    References:
        He, Zhang, Ren, Sun. Delving Deep into Rectifiers. ICCV 2015, Eq. 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
