"""Objects found on images: the paper's detectors on COCO, and small ones on shapes that are drawn.

COCO is looked for in ``data/coco``: ``annotations``, ``train2017`` and ``val2017``; ``task.data.root=FOLDER`` looks
elsewhere, in any folder in COCO's format.

Neck and heads are full-width and shared, as in the paper; ``convert.exclude=[]`` slims them too.

References:
    [1] Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 4.3 and Table 5.
"""

from dataclasses import replace

from slimmable.models.vision_options import DetectorName, DetectorSize
from slimmable.recipes.config import ConversionSettings, Recipe
from slimmable.recipes.detection_sections import DetectionSettings, DetectorSettings
from slimmable.recipes.methods import SNet
from slimmable.recipes.starting import StartSettings
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.shapes import CORNERS
from slimmable.tasks.detection.task import DETECTORS, DetectionKind
from slimmable.train import AdamW, Cosine, Sgd, Step, TrainSettings

TWO_STAGE = ("detector.backbone.fpn*", "detector.rpn*", "detector.roi_heads*")
DENSE = ("detector.backbone.fpn*", "detector.head*")
"""Everything behind the backbone."""

STEPS, PEOPLE_STEPS = 7255, 3967
"""Of 16 images, in an epoch of COCO: 117,266 images with objects, 64,115 with people, a hundredth of them held out."""

CLIP = 35.0
"""Largest L2 norm of the summed gradients [1]."""


def detection_shapes() -> Recipe:
    """S-Net, Faster R-CNN on a small ResNet, drawn shapes: minutes on a CPU."""
    return _shapes("detection")


def detection_smoke() -> Recipe:
    """``detection/shapes`` on few images for a short time: a check that everything works."""
    return _smoke(detection_shapes())


def masks_shapes() -> Recipe:
    """S-Net, Mask R-CNN on a small ResNet, drawn shapes: minutes on a CPU."""
    return _shapes("instance-segmentation")


def masks_smoke() -> Recipe:
    """``instance-segmentation/shapes`` on few images for a short time: a check that everything works."""
    return _smoke(masks_shapes())


def keypoints_shapes() -> Recipe:
    """S-Net, Keypoint R-CNN on a small ResNet, drawn arrows: minutes on a CPU."""
    return _shapes("keypoints")


def keypoints_smoke() -> Recipe:
    """``keypoints/shapes`` on few images for a short time: a check that everything works."""
    return _smoke(keypoints_shapes())


def coco_faster_rcnn() -> Recipe:
    """S-Net, Faster R-CNN on ResNet-50 and COCO.

    Switches 0.25, 0.5, 0.75 and 1, all in every step, gradients summed and clipped at 35; the backbone's batch norms
    are those that ``imagenet/s-net-resnet50`` ends with, frozen; SGD with 0.02, a tenth after 8 and after 11 of 12
    epochs, warm-up of 500 steps, weight decay 1e-4, 16 images a step, no distillation [1]. The run on ImageNet is
    looked for in ``runs/imagenet-s-net-resnet50``. Without one, from torchvision's weights of the widest network, whose
    statistics are measured for every switch: ``start=null task.network.pretrained=true``.
    """
    return _coco("detection", "faster_rcnn")


def coco_retinanet() -> Recipe:
    """S-Net, RetinaNet on ResNet-50 and COCO.

    With 0.01; otherwise as ``detection/coco-faster-rcnn``.
    """
    return _coco("detection", "retinanet", lr=0.01)


def coco_fcos() -> Recipe:
    """S-Net, FCOS on ResNet-50 and COCO.

    With 0.01; otherwise as ``detection/coco-faster-rcnn``.
    """
    return _coco("detection", "fcos", lr=0.01)


def coco_mask_rcnn() -> Recipe:
    """S-Net, Mask R-CNN on ResNet-50 and COCO.

    Otherwise as ``detection/coco-faster-rcnn``.
    """
    return _coco("instance-segmentation", "mask_rcnn")


def coco_keypoint_rcnn() -> Recipe:
    """S-Net, Keypoint R-CNN on ResNet-50 and people of COCO.

    Otherwise as ``detection/coco-faster-rcnn``.
    """
    return _coco("keypoints", "keypoint_rcnn", steps=PEOPLE_STEPS)


def _shapes(kind: DetectionKind) -> Recipe:
    size = DetectorSize(width=0.5, neck=32, head=128, head_layers=2, anchor=16, proposals=100, samples=32)
    name = DETECTORS[kind][0]
    return Recipe(
        task=DetectionSettings(
            kind=kind,
            data=SceneSettings(size=128, batch_size=8),
            network=DetectorSettings(name=name, backbone="resnet10", size=size, keypoints=len(CORNERS)),
        ),
        convert=ConversionSettings(exclude=TWO_STAGE),
        method=SNet(),
        train=TrainSettings(
            epochs=8,
            lr=1e-3,
            schedule=Cosine(),
            warmup_epochs=1,
            optimizer=AdamW(),
            clip_norm=CLIP,
            distillation=False,
            validate_every=4,
        ),
        calibration=None,
    )


def _smoke(base: Recipe) -> Recipe:
    assert isinstance(base.task, DetectionSettings)
    data = replace(base.task.data, train_images=48, test_images=16)
    return base.model_copy(
        update={
            "task": base.task.model_copy(update={"data": data}),
            "train": replace(base.train, epochs=2, warmup_epochs=0.5, validate_every=2),
        }
    )


def _coco(kind: DetectionKind, network: DetectorName, *, lr: float = 0.02, steps: int = STEPS) -> Recipe:
    return Recipe(
        task=DetectionSettings(
            kind=kind,
            data=SceneSettings(
                dataset="folder", root="data/coco", size=800, max_size=1333, batch_size=16, held_out=0.01
            ),
            network=DetectorSettings(name=network, norm="frozen"),
        ),
        convert=ConversionSettings(exclude=DENSE if network in ("retinanet", "fcos") else TWO_STAGE),
        method=SNet(),
        train=TrainSettings(
            epochs=12,
            lr=lr,
            schedule=Step(milestones=(8, 11), ratio=0.1),
            warmup_epochs=500 / steps,
            optimizer=Sgd(nesterov=False),
            weight_decay=1e-4,
            clip_norm=CLIP,
            distillation=False,
        ),
        calibration=None,
        start=StartSettings(run="runs/imagenet-s-net-resnet50", into="detector.backbone.body"),
    )
