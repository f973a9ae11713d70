"""Images made larger: the paper's WDSR on DIV2K, and quick ones on photographs that ship with two packages.

DIV2K is looked for in ``data/DIV2K``: ``DIV2K_train_HR``, ``DIV2K_valid_HR`` and, where they are there, small images in
``DIV2K_train_LR_bicubic/X2`` and so on; ``task.data.root=FOLDER`` looks elsewhere, in any folder of images too.

Without in-place distillation: ``train.distillation=false``. One network of one width, what shared weights are compared
with: ``method.kind=independent method.width=0.5``.

References:
    [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, section 5.1.
    [2] Yu, Fan, Yang, Xu, Wang, Wang, Huang. Wide Activation for Efficient and Accurate Image Super-Resolution. 2018.
"""

from dataclasses import replace

from slimmable.models.expansions import wdsr_expansions
from slimmable.models.upscalers import Scale
from slimmable.recipes.config import ConversionSettings, EvaluationSettings, Recipe
from slimmable.recipes.tasks import SuperResolutionSettings, UpscalerSettings
from slimmable.tasks import PatchDataSettings
from slimmable.train import AdamW, Cosine, Step, TrainSettings

NINE = "0.5:1.0:0.0625"
"""Nine ratios; with a divisor of a sixteenth of the features or less, nine widths."""


def photos() -> Recipe:
    """US-Net, a WDSR of four blocks, x2, 8 to 32 features, on packaged photographs: minutes on a CPU.

    The error is squared: that of a fresh network is near bicubic's at every width, and the gradient of an absolute
    error between widths would be as large as the one against the images. The nine widths evaluated are three features
    apart: after so short a training one feature more is worth less than what widths differ by at random.
    """
    return Recipe(
        task=SuperResolutionSettings(
            data=PatchDataSettings(patch=24, batch_size=8, repeats=80),
            network=UpscalerSettings(width=0.5, blocks=4),
            loss="l2",
            distillation_loss="l2",
        ),
        # Without ``follow``, which would name every block: all widths are exact anyway, and blocks may be changed.
        convert=ConversionSettings(min_ratio=0.25, divisor=1),
        train=TrainSettings(
            epochs=14, lr=2e-3, schedule=Cosine(), optimizer=AdamW(), weight_decay=0.0, validate_every=4
        ),
        evaluation=EvaluationSettings(widths="0.25:1.0:0.09375"),
    )


def smoke() -> Recipe:
    """A US-Net of two blocks on packaged photographs for two short epochs: a check that everything works."""
    base = photos()
    assert isinstance(base.task, SuperResolutionSettings)
    task = base.task.model_copy(
        update={
            "data": replace(base.task.data, repeats=40, test_images=1),
            "network": UpscalerSettings(width=0.5, blocks=2),
        }
    )
    return base.model_copy(
        update={
            "task": task,
            "convert": ConversionSettings(min_ratio=0.5, divisor=8),
            "train": replace(base.train, epochs=2, validate_every=1),
            "evaluation": EvaluationSettings(widths="0.5:1.0:0.25"),
        }
    )


def wdsr_x2_32() -> Recipe:
    """US-Net, WDSR x2 on DIV2K, 16 to 32 features.

    Its widest network is the smaller one that the paper trains by itself; otherwise as ``super-resolution/wdsr-x2-64``.
    """
    return _wdsr(2, width=0.5)


def wdsr_x2_64() -> Recipe:
    """US-Net, WDSR x2 on DIV2K, 32 to 64 features.

    Variant A with 8 blocks, weight norm and no batch norm [1]; patches of 48 pixels, 16 in a batch, flipped and turned,
    absolute error, Adam with 0.001, halved every 200,000 steps [2]. The papers do not say how long: 300 epochs of 1,000
    steps here. Nine widths are evaluated.
    """
    return _wdsr(2, width=1.0)


def wdsr_x4_32() -> Recipe:
    """US-Net, WDSR x4 on DIV2K, 16 to 32 features.

    Otherwise as ``super-resolution/wdsr-x2-64``.
    """
    return _wdsr(4, width=0.5)


def wdsr_x4_64() -> Recipe:
    """US-Net, WDSR x4 on DIV2K, 32 to 64 features.

    Otherwise as ``super-resolution/wdsr-x2-64``.
    """
    return _wdsr(4, width=1.0)


def _wdsr(scale: Scale, *, width: float) -> Recipe:
    # 20 patches of each of 790 images are 987 batches of 16.
    data = PatchDataSettings(
        dataset="folder", root="data/DIV2K", patch=48, batch_size=16, repeats=20, held_out=0.0125, memory_limit_gib=9.0
    )
    return Recipe(
        task=SuperResolutionSettings(scale=scale, data=data, network=UpscalerSettings(width=width, blocks=8)),
        convert=ConversionSettings(min_ratio=0.5, divisor=round(4 * width), follow=wdsr_expansions("A", blocks=8)),
        train=TrainSettings(
            epochs=304,
            lr=1e-3,
            schedule=Step(milestones=(203,), ratio=0.5),
            optimizer=AdamW(),
            weight_decay=0.0,
            validate_every=10,
        ),
        evaluation=EvaluationSettings(widths=NINE),
    )
