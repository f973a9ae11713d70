"""Every pixel named: torchvision's networks on Pascal VOC, and a small one on shapes that are drawn.

VOC is looked for in ``data/voc``: ``VOCdevkit/VOC2012`` as it is unpacked; ``task.data.root=FOLDER`` looks elsewhere,
in any folder of images and label maps, or in COCO's format.
"""

from dataclasses import replace

from slimmable.recipes.config import CalibrationSettings, EvaluationSettings, Recipe
from slimmable.recipes.methods import UsNet
from slimmable.recipes.segmentation_sections import SegmentationSettings, SegmenterSettings
from slimmable.tasks.segmentation.settings import LabelMapSettings
from slimmable.train import AdamW, Cosine, Linear, Sgd, TrainSettings


def shapes() -> Recipe:
    """US-Net, LR-ASPP on a small ResNet, drawn shapes: minutes on a CPU."""
    return _shapes(epochs=15)


def smoke() -> Recipe:
    """``segmentation/shapes`` on few images for two epochs: a check that everything works."""
    base = _shapes(epochs=2)
    assert isinstance(base.task, SegmentationSettings)
    data = replace(base.task.data, train_images=80, test_images=16)
    return base.model_copy(update={"task": base.task.model_copy(update={"data": data})})


def voc_deeplabv3() -> Recipe:
    """US-Net, DeepLabV3 on ResNet-50 and Pascal VOC.

    As torchvision trains its own on COCO, for longer: squares of 480 pixels of images scaled by 0.5 to 2, SGD with
    0.01, which falls to 0, weight decay 1e-4, a second head. Weights start from ImageNet's of the widest network.
    """
    return _voc(SegmenterSettings(name="deeplabv3", backbone="resnet50", pretrained=True))


def voc_lraspp() -> Recipe:
    """US-Net, LR-ASPP on MobileNetV3 and Pascal VOC.

    Otherwise as ``segmentation/voc-deeplabv3``.
    """
    return _voc(SegmenterSettings(name="lraspp", backbone="mobilenet_v3_large", pretrained=True))


def _voc(network: SegmenterSettings) -> Recipe:
    return Recipe(
        task=SegmentationSettings(
            data=LabelMapSettings(dataset="folder", root="data/voc", size=520, crop=480, batch_size=16),
            network=network,
        ),
        method=UsNet(),
        train=TrainSettings(epochs=50, lr=0.01, schedule=Linear(), optimizer=Sgd(nesterov=False), validate_every=5),
        evaluation=EvaluationSettings(widths="0.25:1.0:0.25"),
    )


def _shapes(*, epochs: int) -> Recipe:
    return Recipe(
        task=SegmentationSettings(
            data=LabelMapSettings(size=128, crop=128, scales=(0.75, 1.5), batch_size=8),
            network=SegmenterSettings(name="lraspp", backbone="resnet10", width=0.5),
        ),
        method=UsNet(),
        train=TrainSettings(
            epochs=epochs, lr=2e-3, schedule=Cosine(), optimizer=AdamW(), validate_every=max(1, epochs // 3)
        ),
        calibration=CalibrationSettings(samples=200),
        evaluation=EvaluationSettings(widths="0.25:1.0:0.25"),
    )
