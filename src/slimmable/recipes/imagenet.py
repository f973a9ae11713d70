"""The papers' ImageNet experiments with the papers' settings.

The images are looked for in ``data/imagenet``, one folder per class under ``train/`` and ``val/``;
``task.data.root=FOLDER`` looks elsewhere. Common to all: SGD with Nesterov momentum 0.9, weight decay 1e-4 on the
weights of convolutions (not of depthwise ones) and of linear layers only, no label smoothing, no warm-up, images of
224x224 pixels. The papers do not state the range of the random crops; MobileNets keep at least a quarter of the image
here, ResNets 8 %.

References:
    [1] Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019.
    [2] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019.
"""

from dataclasses import replace

from slimmable.models.expansions import mobilenet_v2_expansions
from slimmable.recipes.config import ConversionSettings, Recipe
from slimmable.recipes.methods import SNet
from slimmable.recipes.tasks import ClassificationSettings, NetworkSettings
from slimmable.tasks import ImageDataSettings
from slimmable.train import Exponential, Linear, Step, TrainSettings

MOBILENET_V2 = ConversionSettings(min_ratio=0.35, exclude=("features.18",), follow=mobilenet_v2_expansions())
"""The last convolution keeps its 1280 channels, expanded widths are six times their block's rounded input."""


def s_net_mobilenet_v1() -> Recipe:
    """S-Net, MobileNet v1 on ImageNet at 0.25, 0.5, 0.75 and 1.0.

    Batch 160, learning rate 0.045 times 0.98 per epoch, 480 epochs [1].
    """
    return Recipe(
        task=_task("mobilenet_v1", batch_size=160),
        method=SNet(),
        train=TrainSettings(
            epochs=480, lr=0.045, schedule=Exponential(ratio=0.98), weight_decay=1e-4, distillation=False
        ),
        calibration=None,
    )


def s_net_mobilenet_v2() -> Recipe:
    """S-Net, MobileNet v2 on ImageNet at 0.35, 0.5, 0.75 and 1.0.

    Otherwise as version 1 [1].
    """
    return s_net_mobilenet_v1().model_copy(
        update={
            "task": _task("torchvision:mobilenet_v2", batch_size=160),
            "convert": MOBILENET_V2,
            "method": SNet(switches=(0.35, 0.5, 0.75, 1.0)),
        }
    )


def s_net_resnet50() -> Recipe:
    """S-Net, ResNet-50 on ImageNet at 0.25, 0.5, 0.75 and 1.0.

    Batch 256, learning rate 0.1, a tenth of it from each of the epochs 30, 60 and 90 on, 100 epochs [1].
    """
    task = _task("torchvision:resnet50", batch_size=256)
    return Recipe(
        task=task.model_copy(update={"data": replace(task.data, crop_scale=(0.08, 1.0))}),
        method=SNet(),
        train=TrainSettings(
            epochs=100, lr=0.1, schedule=Step(milestones=(30, 60, 90)), weight_decay=1e-4, distillation=False
        ),
        calibration=None,
    )


def us_net_mobilenet_v1() -> Recipe:
    """US-Net, MobileNet v1 on ImageNet from 0.25 to 1.0.

    Four widths a step, batch 1024, learning rate 0.5 down to 0 linearly with every iteration, 250 epochs [2].
    """
    return Recipe(
        task=_task("mobilenet_v1", batch_size=1024),
        train=TrainSettings(epochs=250, lr=0.5, schedule=Linear(), weight_decay=1e-4),
    )


def us_net_mobilenet_v2() -> Recipe:
    """US-Net, MobileNet v2 on ImageNet from 0.35 to 1.0.

    Otherwise as version 1 [2].
    """
    return us_net_mobilenet_v1().model_copy(
        update={"task": _task("torchvision:mobilenet_v2", batch_size=1024), "convert": MOBILENET_V2}
    )


def _task(network: str, *, batch_size: int) -> ClassificationSettings:
    data = ImageDataSettings(dataset="folder", root="data/imagenet", image_size=224, batch_size=batch_size)
    return ClassificationSettings(data=data, network=NetworkSettings(name=network))
