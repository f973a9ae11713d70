"""torchvision's detectors without their post-processing: what of them maps tensors to tensors, and can be slimmed.

A detector returns as many boxes as it finds, which no graph of fixed shapes holds. Its backbone, its feature pyramid
and the heads that run at every position are a network like any other. Each function returns one, with untrained
weights, and the size of one input; ``slimmable inspect slimmable.models.detectors:retinanet`` converts it.
"""

from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

Detector = tuple[nn.Module, tuple[int, int, int]]
SIZE = (3, 256, 256)


class DenseDetector(nn.Module):
    """Backbone and heads of a detector.

    Args:
        backbone: Takes images, returns a dictionary of feature maps.
        head: Takes the list of feature maps, returns tensors.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> dict[str, Tensor] | tuple[list[Tensor], ...]:
        """Scores and box offsets at every anchor, in the head's own form."""
        return self.head(list(self.backbone(images).values()))


def resnet18_fpn() -> Detector:
    """Feature pyramid on ResNet-18: five maps of 256 channels."""
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d), SIZE


def mobilenet_v3_large_fpn() -> Detector:
    """Feature pyramid on MobileNetV3-Large: three maps of 256 channels."""
    return mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True), SIZE


def faster_rcnn() -> Detector:
    """Feature pyramid on ResNet-50 and the region-proposal head of Faster R-CNN."""
    model = detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    return DenseDetector(model.backbone, model.rpn.get_submodule("head")), SIZE


def retinanet() -> Detector:
    """RetinaNet on ResNet-50."""
    model = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None)
    return DenseDetector(model.backbone, model.head), SIZE


def fcos() -> Detector:
    """FCOS on ResNet-50."""
    model = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    return DenseDetector(model.backbone, model.head), SIZE


def ssd() -> Detector:
    """SSD on VGG-16."""
    model = detection.ssd300_vgg16(weights=None, weights_backbone=None)
    return DenseDetector(model.backbone, model.head), (3, 300, 300)


def ssdlite() -> Detector:
    """SSDlite on MobileNetV3-Large."""
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    return DenseDetector(model.backbone, model.head), (3, 320, 320)
