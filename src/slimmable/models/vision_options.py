"""What detectors and segmentation networks are told, apart from them: this module needs no torchvision."""

from dataclasses import dataclass
from typing import Literal

from slimmable.errors import RecipeError

DetectorName = Literal["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos"]
NormKind = Literal["frozen", "calibrated"]
SegmenterName = Literal["deeplabv3", "fcn", "lraspp"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, as torchvision's published weights take them."""


@dataclass(frozen=True, kw_only=True)
class DetectorSize:
    """How large a detector is; the defaults are torchvision's.

    Attributes:
        width: Multiplier of the backbone's channel counts before conversion.
        neck: Channels of the feature pyramid.
        head: Features of the box head.
        head_layers: Convolutions of the mask or keypoint head, or of each head of a dense detector; None is
            torchvision's number.
        anchor: Side in pixels of the smallest anchors; every level doubles it. FCOS has none.
        proposals: Regions of an image that the box head looks at; twice as many compete in training.
        samples: Of those, regions that it learns from, at most.
    """

    width: float = 1.0
    neck: int = 256
    head: int = 1024
    head_layers: int | None = None
    anchor: int = 32
    proposals: int = 1000
    samples: int = 512

    def __post_init__(self) -> None:
        for key in ("neck", "head", "anchor", "proposals", "samples"):
            if getattr(self, key) < 1:
                raise RecipeError(f"DetectorSize.{key} is {getattr(self, key)}; expected at least 1")
        if self.width <= 0:
            raise RecipeError(f"DetectorSize.width is {self.width}; expected a number above 0")
        if self.head_layers is not None and self.head_layers < 1:
            raise RecipeError(f"DetectorSize.head_layers is {self.head_layers}; expected at least 1, or None")
