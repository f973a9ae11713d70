"""Semantic segmentation: every pixel named."""

import copy
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.errors import MissingDependencyError, RecipeError
from slimmable.models.vision_options import SegmenterName
from slimmable.tasks.first_inputs import FirstInputs, images_of
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.losses import soft_cross_entropy
from slimmable.tasks.segmentation.batches import MapBatch, TrainMaps, WholeMaps
from slimmable.tasks.segmentation.intersection import IntersectionOverUnion
from slimmable.tasks.segmentation.maps import IGNORED, LabelMaps, MapSplits, load_maps
from slimmable.tasks.segmentation.settings import LabelMapSettings

AUXILIARY = 0.5
"""Weight of the second head's loss, as torchvision trains its own networks."""

_CALIBRATION = 2**31 - 1
"""An epoch that no training reaches."""


class SegmentationTask:
    """Images with label maps, cross-entropy of pixels, mean intersection over union.

    Implements :class:`slimmable.train.task.Task`.

    Args:
        data: Which images, and how they are fed; drawn shapes unless said otherwise.
        network: Name of the network, see :func:`slimmable.models.segmentation.build_segmenter`.
        backbone: Name of its backbone.
        width: Multiplier of the backbone's channel counts.
        auxiliary: Whether there is a second head.
        pretrained: Start from the backbone's published ImageNet weights.

    Raises:
        RecipeError: LR-ASPP is asked for a second head.

    References:
        Chen, Papandreou, Schroff, Adam. Rethinking Atrous Convolution for Semantic Image Segmentation. 2017.

    >>> data = LabelMapSettings(size=64, crop=64, batch_size=2, train_images=2)
    >>> task = SegmentationTask(data, network="fcn", backbone="resnet10", width=0.25)
    >>> batch = next(iter(task.train_batches(task.model(), epoch=0, seed=0)))
    >>> task.forward(task.model(), batch)["out"].shape
    torch.Size([2, 4, 64, 64])
    """

    name = "segmentation"
    metric = "miou"
    higher_is_better = True

    def __init__(
        self,
        data: LabelMapSettings | None = None,
        *,
        network: SegmenterName = "deeplabv3",
        backbone: str = "resnet50",
        width: float = 1.0,
        auxiliary: bool | None = None,
        pretrained: bool = False,
    ) -> None:
        if network == "lraspp" and auxiliary:
            raise RecipeError("auxiliary is set, but LR-ASPP has no second head; leave it out")
        self.data = data or LabelMapSettings()
        self.device = torch.device("cpu")
        self._network: SegmenterName = network
        self._backbone = backbone
        self._width = width
        self._auxiliary = network != "lraspp" if auxiliary is None else auxiliary
        self._pretrained = pretrained

    @cached_property
    def splits(self) -> MapSplits:
        """The images, split; files are listed but not read.

        Raises:
            DataError: Files are missing or malformed.
        """
        return load_maps(self.data)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels from 1 on; 0 is background."""
        return self.splits.classes

    def model(self) -> nn.Module:
        """A new, plain network for the classes of the data."""
        return self.network_of(len(self.classes), pretrained=self._pretrained)

    def network_of(self, classes: int, *, pretrained: bool = False) -> nn.Module:
        """A new, plain network for a number of classes, without a look at the data.

        Raises:
            MissingDependencyError: torchvision is not installed.
        """
        try:
            from slimmable.models.segmentation import build_segmenter
        except ImportError as error:
            raise MissingDependencyError(
                "segmentation networks are torchvision's, which is not installed: pip install 'slimmable[detection]'"
            ) from error
        return build_segmenter(
            self._network,
            classes=classes,
            backbone=self._backbone,
            width=self._width,
            auxiliary=self._auxiliary,
            pretrained=pretrained,
        )

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two images of noise, as large as the squares that are learnt from, without what lies outside images."""
        side = min(self.data.size, self.data.crop)
        return (torch.randn((2, 3, side, side), generator=seeded_generator(0)).to(self.device),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> TrainMaps:
        """Squares of random scales and places; ``net`` is not looked at."""
        return TrainMaps(
            maps=self.splits.train,
            size=self.data.size,
            crop=self.data.crop,
            scales=self.data.scales,
            batch_size=self.data.batch_size,
            flip=self.data.flip,
            workers=self.data.workers if self.data.dataset == "folder" else 0,
            device=self.device,
            seed_parts=(seed, epoch),
        )

    def validation_batches(self) -> WholeMaps:
        """Whole images for choosing anything; never the test images."""
        return self._whole(self.splits.validation)

    def test_batches(self) -> WholeMaps:
        """Whole images of the final figure."""
        return self._whole(self.splits.test)

    def calibration_batches(self, *, samples: int, seed: int) -> FirstInputs:
        """Up to ``samples`` training squares."""
        batches = self.train_batches(nn.Identity(), epoch=_CALIBRATION, seed=seed)
        return FirstInputs(batches=batches, samples=samples, inputs=images_of)

    def forward(self, net: nn.Module, batch: MapBatch) -> dict[str, Tensor]:
        """Logits of every pixel, by head."""
        return net(batch.images)

    def loss(self, outputs: dict[str, Tensor], batch: MapBatch) -> Tensor:
        """Cross-entropy, mean over pixels that count; half as much of the second head's is added."""
        losses = {name: F.cross_entropy(each, batch.labels, ignore_index=IGNORED) for name, each in outputs.items()}
        return _summed(losses)

    def distillation_loss(self, outputs: dict[str, Tensor], target: dict[str, Tensor], batch: MapBatch) -> Tensor:
        """Cross-entropy against the widest network's prediction, mean over all pixels; the heads are added as above."""
        return _summed({name: soft_cross_entropy(each, target[name]) for name, each in outputs.items()})

    def metrics(self) -> IntersectionOverUnion:
        """A new, empty metric."""
        return IntersectionOverUnion(1 + len(self.classes))

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``; the images are shared."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def _whole(self, maps: LabelMaps) -> WholeMaps:
        return WholeMaps(maps=maps, size=self.data.size, device=self.device)


def _summed(losses: dict[str, Tensor]) -> Tensor:
    return losses["out"] + AUXILIARY * losses["aux"] if "aux" in losses else losses["out"]
