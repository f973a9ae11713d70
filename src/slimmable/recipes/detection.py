"""Objects found on images: the paper's detectors on COCO, and small ones on shapes that are drawn.

COCO is looked for in ``data/coco``: ``annotations``, ``train2017`` and ``val2017``; ``task.data.root=FOLDER`` looks
elsewhere, in any folder in COCO's format.

Neck and heads are full-width and shared, as in the paper; ``convert.exclude=[]`` slims them too.

References:
    [1] Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 4.3 and Table 5.
"""

from slimmable.models.detection import DetectorName, DetectorSize
from slimmable.recipes.config import CalibrationSettings, ConversionSettings, Recipe
from slimmable.recipes.detection_sections import DetectionSettings, DetectorSettings
from slimmable.recipes.methods import SNet
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.task import DetectionKind
from slimmable.train import AdamW, Cosine, TrainSettings

TWO_STAGE = ("detector.backbone.fpn*", "detector.rpn*", "detector.roi_heads*")
DENSE = ("detector.backbone.fpn*", "detector.head*")
"""Everything behind the backbone."""


def detection_shapes() -> Recipe:
    """S-Net, Faster R-CNN on a small ResNet, drawn shapes: minutes on a CPU."""
    return _shapes("detection", "faster_rcnn")


def masks_shapes() -> Recipe:
    """S-Net, Mask R-CNN on a small ResNet, drawn shapes: minutes on a CPU."""
    return _shapes("instance-segmentation", "mask_rcnn")


def keypoints_shapes() -> Recipe:
    """S-Net, Keypoint R-CNN on a small ResNet, drawn arrows: minutes on a CPU."""
    return _shapes("keypoints", "keypoint_rcnn")


def _shapes(kind: DetectionKind, network: DetectorName) -> Recipe:
    size = DetectorSize(width=0.5, neck=32, head=128, head_layers=2, anchor=16, proposals=100, samples=32)
    return Recipe(
        task=DetectionSettings(
            kind=kind,
            data=SceneSettings(size=128, batch_size=8),
            network=DetectorSettings(name=network, backbone="resnet10", size=size, keypoints=4),
        ),
        convert=ConversionSettings(exclude=TWO_STAGE),
        method=SNet(),
        train=TrainSettings(
            epochs=12,
            lr=1e-3,
            schedule=Cosine(),
            warmup_epochs=1,
            optimizer=AdamW(),
            clip_norm=35.0,
            distillation=False,
            validate_every=4,
        ),
        calibration=CalibrationSettings(samples=400),
    )
