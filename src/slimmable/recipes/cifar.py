"""CIFAR-10 and CIFAR-100 with the small networks of the papers.

The images are looked for in ``data/cifar10`` and ``data/cifar100``; ``task.data.download=true`` fetches them, and
``task.data.root=FOLDER`` looks elsewhere.
"""

from dataclasses import replace
from typing import Literal

from slimmable.recipes.config import ConversionSettings, EvaluationSettings, Recipe
from slimmable.recipes.methods import OwsMethod, PareCoMethod, SNet, UsNet
from slimmable.recipes.tasks import ClassificationSettings, NetworkSettings
from slimmable.search import TARGET_MACS, TARGET_RATIOS, WEIGHTINGS, Platform
from slimmable.tasks import ImageDataSettings
from slimmable.train import Constant, Cosine, Exponential, TrainSettings


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


def two_stage() -> Recipe:
    """TwoStage, ResNet-20 on CIFAR-10: random widths in training, to be searched afterwards (``slimmable search``).

    The six width parameters of PareCO's appendix B, without rounding, from 0.316; otherwise as ``cifar10/us-net``.
    """
    return us_net().model_copy(update={"method": UsNet(mode="nonuniform"), "convert": _SIX_WIDTHS})


def pareco() -> Recipe:
    """PareCO, ResNet-20 on CIFAR-10: widths found while they train.

    Two widths every 313 steps, so that 1,000 are looked at in 400 epochs; data, network, schedule and the six width
    parameters of ``cifar10/two-stage``.
    """
    return two_stage().model_copy(update={"method": PareCoMethod(m=2, n=313)})


def s_net_mobilenet_v1() -> Recipe:
    """S-Net, MobileNet v1 on CIFAR-100 at seven widths.

    The network of the multi-platform paper (Table 1) and the settings of its final training: 300 epochs, batch 128,
    learning rate 0.1 times 0.985 per epoch, Nesterov momentum 0.9, weight decay 5e-4, dropout 0.6 on the widest network
    only. Widths that ``cifar100/ows-mobilenet-v1`` found take the place of the uniform ones by
    ``convert.min_ratio=0.2 convert.max_ratio=1.5 method.kind=platforms method.widths=RUN/found.json``.
    """
    return Recipe(
        task=_task("cifar100", "mobilenet_v1_cifar", dropout=0.6),
        method=SNet(switches=(0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)),
        train=TrainSettings(
            epochs=300,
            lr=0.1,
            schedule=Exponential(ratio=0.985),
            weight_decay=5e-4,
            distillation=False,
            dropout_widest_only=True,
        ),
        calibration=None,
    )


def us_net_mobilenet_v1() -> Recipe:
    """US-Net, MobileNet v1 on CIFAR-100.

    Data, network and schedule of ``cifar100/s-net-mobilenet-v1``.
    """
    base = s_net_mobilenet_v1()
    train = replace(base.train, distillation=True, dropout_widest_only=False)
    return Recipe(task=_task("cifar100", "mobilenet_v1_cifar"), train=train)


def ows_mobilenet_v1() -> Recipe:
    """OWS, MobileNet v1 on CIFAR-100: the search for seven platforms.

    Ratios from 0.2 to 1.5 with up to 14 choices a layer, one random configuration a step, 50 epochs at a constant
    learning rate of 0.1; the budgets of the multi-platform paper (Table 1).
    """
    return Recipe(
        task=_task("cifar100", "mobilenet_v1_cifar"),
        convert=ConversionSettings(min_ratio=0.2, max_ratio=1.5),
        method=OwsMethod(platforms=_platforms("U"), choices=14, k=1),
        train=TrainSettings(epochs=50, lr=0.1, schedule=Constant(), weight_decay=5e-4, distillation=False),
        evaluation=EvaluationSettings(widths=TARGET_RATIOS),
    )


def aows_mobilenet_v1() -> Recipe:
    """AOWS, MobileNet v1 on CIFAR-100: as ``cifar100/ows-mobilenet-v1``, sampling where the platforms' widths may lie.

    Ten epochs of uniform sampling warm up; platforms are equally important (weighting U).
    """
    base = ows_mobilenet_v1()
    return base.model_copy(update={"method": OwsMethod(platforms=_platforms("U"), adaptive=True, warm_up_epochs=10)})


_SIX_WIDTHS = ConversionSettings(
    min_ratio=0.316,
    divisor=1,
    tie=(("blocks.[012].conv1",), ("blocks.[345].conv1",), ("blocks.[678].conv1",)),
)


def _platforms(weighting: str) -> tuple[Platform, ...]:
    named = zip(TARGET_RATIOS, TARGET_MACS, WEIGHTINGS[weighting], strict=True)
    return tuple(
        Platform(name=str(ratio), budget=float(macs), importance=weight, sampling=weight)
        for ratio, macs, weight in named
    )


def _task(
    dataset: Literal["cifar10", "cifar100"], network: str, dropout: float | None = None
) -> ClassificationSettings:
    data = ImageDataSettings(dataset=dataset, root=f"data/{dataset}", batch_size=128)
    return ClassificationSettings(data=data, network=NetworkSettings(name=network, dropout=dropout))
