"""CIFAR-10 and CIFAR-100 with the small networks of the papers.

The images are looked for in ``data/cifar10`` and ``data/cifar100``; ``task.data.download=true`` fetches them, and
``task.data.root=FOLDER`` looks elsewhere.
"""

from dataclasses import replace
from typing import Literal

from slimmable.recipes.config import ClassificationSettings, NetworkSettings, Recipe
from slimmable.recipes.methods import SNet
from slimmable.tasks import ImageDataSettings
from slimmable.train import Cosine, Exponential, TrainSettings


def us_net() -> Recipe:
    """US-Net, ResNet-20 on CIFAR-10.

    Batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1 along a cosine, weight decay 5e-4, 400 epochs: the
    settings of PareCO's CIFAR experiments, whose baseline is a US-Net. Its lowest multiplier there is 0.316.
    """
    return Recipe(
        task=_task("cifar10", "resnet20"),
        train=TrainSettings(epochs=400, lr=0.1, schedule=Cosine(), weight_decay=5e-4),
    )


def s_net() -> Recipe:
    """S-Net, ResNet-20 on CIFAR-10 at 0.25, 0.5, 0.75 and 1.0.

    Every switch learns from the labels; otherwise as ``cifar10/us-net``.
    """
    base = us_net()
    train = replace(base.train, distillation=False)
    return base.model_copy(update={"method": SNet(), "train": train, "calibration": None})


def s_net_mobilenet_v1() -> Recipe:
    """S-Net, MobileNet v1 on CIFAR-100 at seven widths.

    The network of the multi-platform paper (Table 1) and the settings of its final training: 300 epochs, batch 128,
    learning rate 0.1 times 0.985 per epoch, Nesterov momentum 0.9, weight decay 5e-4. The paper adds dropout 0.6 on the
    widest network, which this network does not have.
    """
    return Recipe(
        task=_task("cifar100", "mobilenet_v1_cifar"),
        method=SNet(switches=(0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)),
        train=TrainSettings(
            epochs=300, lr=0.1, schedule=Exponential(ratio=0.985), weight_decay=5e-4, distillation=False
        ),
        calibration=None,
    )


def us_net_mobilenet_v1() -> Recipe:
    """US-Net, MobileNet v1 on CIFAR-100.

    Data, network and schedule of ``cifar100/s-net-mobilenet-v1``.
    """
    base = s_net_mobilenet_v1()
    return Recipe(task=base.task, train=replace(base.train, distillation=True))


def _task(dataset: Literal["cifar10", "cifar100"], network: str) -> ClassificationSettings:
    data = ImageDataSettings(dataset=dataset, root=f"data/{dataset}", batch_size=128)
    return ClassificationSettings(data=data, network=NetworkSettings(name=network))
