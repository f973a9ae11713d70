"""torchvision's segmentation networks on any backbone of :mod:`slimmable.models.pyramids`."""

from typing import Any, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import LRASPP
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from slimmable.errors import RecipeError
from slimmable.models.pyramids import channels_of, stages
from slimmable.models.vision_options import SegmenterName

_DILATED = ("resnet50", "resnet101")
"""ResNets whose blocks torchvision can dilate."""


class TwoHeaded(nn.Module):
    """DeepLabV3 or FCN, its second head run in training alone.

    torchvision's own run it in evaluation too, so that it would be part of costs and of every exported graph. Names of
    tensors are the same.

    Args:
        backbone: From images to feature maps under ``out`` and, for the second head, ``aux``.
        classifier: Head of ``out``.
        aux_classifier: Head of ``aux``, or None.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Logits of every pixel under ``out``; in training those of the second head under ``aux``."""
        features: dict[str, Tensor] = self.backbone(images_BCHW)
        logits = {"out": self.classifier(features["out"])}
        if self.training and self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(features["aux"])
        size = images_BCHW.shape[-2:]
        return {
            name: F.interpolate(each, size=size, mode="bilinear", align_corners=False) for name, each in logits.items()
        }


def build_segmenter(
    name: SegmenterName,
    *,
    classes: int,
    backbone: str = "resnet50",
    width: float = 1.0,
    auxiliary: bool = True,
    pretrained: bool = False,
) -> nn.Module:
    """The segmentation network called ``name``, freshly initialised.

    Args:
        name: Of torchvision: DeepLabV3, FCN or LR-ASPP.
        classes: Kinds of things, without the background.
        backbone: See :func:`slimmable.models.pyramids.stages`; ResNet-50 and -101 are dilated to stride 8.
        width: Multiplier of the backbone's channel counts.
        auxiliary: Whether training has a second head, on the backbone's last stage but one; LR-ASPP has none.
        pretrained: Start from the backbone's published ImageNet weights, which are fetched.

    Returns:
        Network from ``(B, 3, H, W)`` to logits ``(B, 1 + classes, H, W)`` under ``out`` and, of the second head in
        training, ``aux``.

    Raises:
        RecipeError: A name is unknown, or a number out of its range.

    >>> import torch
    >>> net = build_segmenter("lraspp", classes=2, backbone="mobilenet_v3_small").eval()
    >>> net(torch.zeros(1, 3, 64, 64))["out"].shape
    torch.Size([1, 3, 64, 64])
    """
    if name not in get_args(SegmenterName):
        raise RecipeError(
            f"there is no segmentation network {name!r}; expected one of {', '.join(get_args(SegmenterName))}"
        )
    if classes < 1:
        raise RecipeError(f"a segmentation network of {classes} classes; expected at least 1")
    inner: Any = stages(backbone, width=width, pretrained=pretrained, dilated=backbone in _DILATED)
    channels, layers = channels_of(inner), list(inner.return_layers)
    if name == "lraspp":
        body = IntermediateLayerGetter(inner, {layers[1]: "low", layers[3]: "high"})
        return LRASPP(body, channels[1], channels[3], classes + 1)
    second = auxiliary and {layers[2]: "aux"}
    body = IntermediateLayerGetter(inner, {**(second or {}), layers[3]: "out"})
    head = DeepLabHead(channels[3], classes + 1) if name == "deeplabv3" else FCNHead(channels[3], classes + 1)
    return TwoHeaded(body, head, FCNHead(channels[2], classes + 1) if auxiliary else None)
