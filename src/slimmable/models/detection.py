"""Detectors of torchvision that can be slimmed: backbone, feature pyramid and heads, at the size a recipe asks for."""

from collections.abc import Sequence
from typing import Any, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from slimmable.errors import RecipeError
from slimmable.models.pyramids import pyramid
from slimmable.models.vision_options import DEVIATION, MEAN, DetectorName, DetectorSize, NormKind

_FCOS_GROUPS = 32


class DetectionNet(nn.Module):
    """A detector of torchvision, which is a network from tensors to tensors as well.

    A detector returns as many boxes as it finds, which no graph of fixed shapes holds. Given one tensor of prepared
    images, this module runs all its layers at shapes that are fixed: backbone, pyramid, the heads of every position,
    and those of a region on one region of each image, its whole finest map. That is what conversion analyses, what
    calibration runs and what costs count. Given a list of images it is the detector, with the same weights.

    Args:
        detector: Of torchvision.
        norm: ``frozen``: batch norms of the backbone keep their statistics, gains and shifts in training;
            ``calibrated``: they use the batch's.

    References:
        Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 4.3.
    """

    def __init__(self, detector: nn.Module, *, norm: NormKind = "calibrated") -> None:
        super().__init__()
        self.detector = detector
        self.frozen = norm == "frozen"
        for module in self._norms() if self.frozen else ():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "DetectionNet":
        """Set training or evaluation mode; frozen batch norms stay in evaluation."""
        super().train(mode)
        for module in self._norms() if self.frozen else ():
            module.eval()
        return self

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Losses by name in training, boxes of every image in evaluation; raw outputs for one tensor.

        Args:
            images: Images ``(3, H, W)`` of values between 0 and 1; or one tensor ``(B, 3, H, W)``, as
                :func:`image_transform` prepares it.
            targets: What is on each image, as torchvision's detectors take it; in training only.
        """
        if isinstance(images, Tensor):
            return self._layers(images)
        return self.detector(list(images), None if targets is None else list(targets))

    def _norms(self) -> list[nn.Module]:
        body = self.detector.get_submodule("backbone.body")
        return [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]

    def _layers(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        detector: Any = self.detector
        features = detector.backbone(images_BCHW)
        maps = list(features.values())
        kind = type(self.detector)
        if not issubclass(kind, detection.FasterRCNN):
            return tuple(detector.head(maps).values())
        scores, offsets = detector.rpn.head(maps)
        heads, finest = detector.roi_heads, maps[0]
        found = [*scores, *offsets]
        found += heads.box_predictor(heads.box_head(_region(finest, heads.box_roi_pool)))
        if issubclass(kind, detection.MaskRCNN):
            found.append(heads.mask_predictor(heads.mask_head(_region(finest, heads.mask_roi_pool))))
        if issubclass(kind, detection.KeypointRCNN):
            found.append(heads.keypoint_predictor(heads.keypoint_head(_region(finest, heads.keypoint_roi_pool))))
        return tuple(found)


class _KeypointPredictor(KeypointRCNNPredictor):
    """torchvision's loss views the maps in rows, which those of a network in channels-last format do not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


def _region(features_BCHW: Tensor, pool: Any) -> Tensor:
    return F.adaptive_avg_pool2d(features_BCHW, pool.output_size)


def image_transform(image_size: tuple[int, int]) -> GeneralizedRCNNTransform:
    """What detectors do to images first: resize, normalise by ImageNet's mean and deviation, pad to one size.

    Args:
        image_size: Length of the shorter side that images are resized to, and limit of the longer one.
    """
    return GeneralizedRCNNTransform(*image_size, list(MEAN), list(DEVIATION))


def build_detector(
    name: DetectorName,
    *,
    classes: int,
    backbone: str = "resnet50",
    size: DetectorSize | None = None,
    image_size: tuple[int, int] = (800, 1333),
    norm: NormKind = "calibrated",
    keypoints: int = 17,
    pretrained: bool = False,
) -> DetectionNet:
    """The detector called ``name`` on a backbone with a feature pyramid, freshly initialised.

    Args:
        name: Of torchvision: Faster, Mask or Keypoint R-CNN, RetinaNet or FCOS.
        classes: Kinds of objects, without the background.
        backbone: See :func:`slimmable.models.pyramids.pyramid`.
        size: Channels and numbers.
        image_size: Length of the shorter side that images are resized to, and limit of the longer one.
        norm: What batch norms of the backbone do in training; see :class:`DetectionNet`.
        keypoints: Of an object, for Keypoint R-CNN.
        pretrained: Start from the backbone's published ImageNet weights, which are fetched.

    Raises:
        RecipeError: A name is unknown, or a number out of its range.

    >>> import torch
    >>> net = build_detector("fcos", classes=2, backbone="resnet10", size=DetectorSize(width=0.25, neck=32))
    >>> [tuple(each.shape[1:]) for each in net(torch.zeros(2, 3, 64, 64))]
    [(86, 3), (86, 4), (86, 1)]
    """
    if name not in get_args(DetectorName):
        raise RecipeError(f"there is no detector {name!r}; expected one of {', '.join(get_args(DetectorName))}")
    if classes < 1 or keypoints < 1:
        raise RecipeError(f"a detector of {classes} classes and {keypoints} keypoints; expected at least 1 of each")
    size = size or DetectorSize()
    dense = name in ("retinanet", "fcos")
    body = pyramid(
        backbone,
        width=size.width,
        channels=size.neck,
        finest=8 if dense else 4,
        extra=LastLevelP6P7(size.neck, size.neck) if dense else LastLevelMaxPool(),
        pretrained=pretrained,
    )
    shorter, longer = image_size
    common: dict[str, Any] = {
        "min_size": shorter,
        "max_size": longer,
        "image_mean": list(MEAN),
        "image_std": list(DEVIATION),
    }
    make = {"retinanet": _retinanet, "fcos": _fcos}.get(name)
    detector = (
        make(body, classes + 1, size, common)
        if make is not None
        else _two_stage(name, body, classes + 1, size, keypoints, common)
    )
    return DetectionNet(detector, norm=norm)


def _retinanet(body: nn.Module, labels: int, size: DetectorSize, common: dict[str, Any]) -> nn.Module:
    octaves = tuple(tuple(round(size.anchor * 2**level * 2 ** (third / 3)) for third in range(3)) for level in range(5))
    anchors = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * 5)
    head = detection.retinanet.RetinaNetHead(size.neck, anchors.num_anchors_per_location()[0], labels)
    if size.head_layers is not None:
        for part in (head.classification_head, head.regression_head):
            part.conv = nn.Sequential(*list(part.conv)[: size.head_layers])
    return detection.RetinaNet(body, labels, anchor_generator=anchors, head=head, **common)


def _fcos(body: nn.Module, labels: int, size: DetectorSize, common: dict[str, Any]) -> nn.Module:
    if size.neck % _FCOS_GROUPS:
        raise RecipeError(
            f"DetectorSize.neck is {size.neck}; expected a multiple of {_FCOS_GROUPS}: FCOS's head has as many groups"
        )
    head = detection.fcos.FCOSHead(size.neck, 1, labels, size.head_layers or 4)
    return detection.FCOS(body, labels, head=head, **common)


def _two_stage(
    name: str, body: nn.Module, labels: int, size: DetectorSize, keypoints: int, common: dict[str, Any]
) -> nn.Module:
    sides = tuple((size.anchor * 2**level,) for level in range(5))
    common |= {
        "rpn_anchor_generator": AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 5),
        "rpn_pre_nms_top_n_train": 2 * size.proposals,
        "rpn_post_nms_top_n_train": 2 * size.proposals,
        "rpn_pre_nms_top_n_test": size.proposals,
        "rpn_post_nms_top_n_test": size.proposals,
        "box_batch_size_per_image": size.samples,
        "box_head": TwoMLPHead(size.neck * 7**2, size.head),
        "box_predictor": FastRCNNPredictor(size.head, labels),
    }
    if name == "mask_rcnn":
        layers = (size.neck,) * (size.head_layers or 4)
        heads = MaskRCNNHeads(size.neck, layers, 1)
        predictor = MaskRCNNPredictor(size.neck, size.neck, labels)
        return detection.MaskRCNN(body, mask_head=heads, mask_predictor=predictor, **common)
    if name == "keypoint_rcnn":
        layers = (2 * size.neck,) * (size.head_layers or 8)
        return detection.KeypointRCNN(
            body,
            keypoint_head=KeypointRCNNHeads(size.neck, layers),
            keypoint_predictor=_KeypointPredictor(2 * size.neck, keypoints),
            num_keypoints=None,
            **common,
        )
    return detection.FasterRCNN(body, **common)
