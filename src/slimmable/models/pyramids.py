"""Backbones of torchvision with a feature pyramid of any width, and the bodies of segmentation networks."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from slimmable.errors import RecipeError

_DEPTHS: Mapping[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = MappingProxyType(
    {
        "resnet10": (BasicBlock, [1, 1, 1, 1]),
        "resnet18": (BasicBlock, [2, 2, 2, 2]),
        "resnet34": (BasicBlock, [3, 4, 6, 3]),
        "resnet50": (Bottleneck, [3, 4, 6, 3]),
        "resnet101": (Bottleneck, [3, 4, 23, 3]),
    }
)
_MOBILE: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "mobilenet_v2": models.mobilenet_v2,
        "mobilenet_v3_small": models.mobilenet_v3_small,
        "mobilenet_v3_large": models.mobilenet_v3_large,
    }
)

BACKBONES = (*_DEPTHS, *_MOBILE)
"""Names of all backbones."""

STRIDES = (4, 8, 16, 32)
_PUBLISHED = "IMAGENET1K_V1"


class _ScaledResNet(ResNet):
    """torchvision's ResNet with every channel count multiplied, but for that of its first layer's norm and names."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: list[int], *, width: float, **options: Any
    ) -> None:
        self._width = width
        super().__init__(block, layers, **options)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        return super()._make_layer(block, max(8, round(planes * self._width)), blocks, stride, dilate)


def stages(name: str, *, width: float = 1.0, pretrained: bool = False, dilated: bool = False) -> nn.Module:
    """The backbone called ``name``, returning its last feature maps of strides 4, 8, 16 and 32 as ``0`` to ``3``.

    Args:
        name: One of :data:`BACKBONES`.
        width: Multiplier of its channel counts; a ResNet's first layer keeps its 64.
        pretrained: Start from published ImageNet weights, which are fetched.
        dilated: Dilate a ResNet's last two stages, so that they keep stride 8.

    Raises:
        RecipeError: There is no such backbone, or there are no published weights of it.

    >>> [tuple(each.shape) for each in stages("resnet10", width=0.25)(torch.zeros(1, 3, 64, 64)).values()]
    [(1, 16, 16, 16), (1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2)]
    """
    if name not in BACKBONES:
        raise RecipeError(f"there is no backbone {name!r}; expected one of {', '.join(BACKBONES)}")
    if pretrained and (width != 1 or name == "resnet10"):
        raise RecipeError(f"there are no published weights of {name} at width {width}; set pretrained=false or width=1")
    weights = models.get_model_weights(name)[_PUBLISHED].get_state_dict(progress=False) if pretrained else None
    if name in _DEPTHS:
        block, layers = _DEPTHS[name]
        body: nn.Module = _ScaledResNet(
            block, layers, width=width, replace_stride_with_dilation=[False, dilated, dilated]
        )
        wanted = {f"layer{i + 1}": str(i) for i in range(4)}
    else:
        if dilated:
            raise RecipeError(f"{name} cannot be dilated; expected a ResNet")
        network: Any = _MOBILE[name](width_mult=width)
        body = network.features
        cuts = [i for i, each in enumerate(body.children()) if getattr(each, "_is_cn", False)]
        ends = [*(cut - 1 for cut in cuts[1:]), len(network.features) - 1]
        wanted = {str(end): str(i) for i, end in enumerate(ends)}
        if weights is not None:
            network.load_state_dict(weights)
            return IntermediateLayerGetter(body, wanted)
    if weights is not None:
        body.load_state_dict(weights)
    return IntermediateLayerGetter(body, wanted)


def channels_of(body: nn.Module) -> list[int]:
    """Channels of every feature map that ``body`` returns."""
    training = body.training
    with torch.no_grad():
        found = [each.shape[1] for each in body.eval()(torch.zeros(1, 3, 64, 64)).values()]
    body.train(training)
    return found


def pyramid(
    name: str, *, width: float, channels: int, finest: int, extra: ExtraFPNBlock, pretrained: bool = False
) -> BackboneWithFPN:
    """The backbone called ``name`` with a feature pyramid.

    Args:
        name: One of :data:`BACKBONES`.
        width: Multiplier of the backbone's channel counts.
        channels: Of every map of the pyramid.
        finest: Stride of the pyramid's finest map: 4 or 8.
        extra: What makes the maps beyond stride 32.
        pretrained: Start from published ImageNet weights, which are fetched.

    Raises:
        RecipeError: There is no such backbone, or there are no published weights of it.
    """
    body: Any = stages(name, width=width, pretrained=pretrained)
    inner = [each for each, stride in zip(channels_of(body), STRIDES, strict=True) if stride >= finest]
    layers = list(body.return_layers)[-len(inner) :]
    wanted = {layer: str(i) for i, layer in enumerate(layers)}
    return BackboneWithFPN(body, wanted, inner, channels, extra)
