"""Detection, instance segmentation and keypoints: objects found on images."""

import copy
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.models.vision_options import DetectorName, DetectorSize, NormKind
from slimmable.tasks.detection.batches import SceneBatch, TrainScenes, WholeScenes
from slimmable.tasks.detection.pipeline import ScenePipeline
from slimmable.tasks.detection.precision import AveragePrecision, Judged
from slimmable.tasks.detection.scenes import POINTS, Target
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.first_inputs import FirstInputs
from slimmable.tasks.images.splits import seeded_generator

if TYPE_CHECKING:
    from slimmable.models.detection import DetectionNet

DetectionKind = Literal["detection", "instance-segmentation", "keypoints"]

DETECTORS: dict[DetectionKind, tuple[DetectorName, ...]] = {
    "detection": ("faster_rcnn", "retinanet", "fcos"),
    "instance-segmentation": ("mask_rcnn",),
    "keypoints": ("keypoint_rcnn",),
}
"""Detectors by what they find, the usual one first."""

_JUDGED: dict[DetectionKind, tuple[Judged, ...]] = {
    "detection": (),
    "instance-segmentation": ("masks",),
    "keypoints": ("keypoints",),
}
_METRICS: dict[DetectionKind, str] = {
    "detection": "ap",
    "instance-segmentation": "mask_ap",
    "keypoints": "keypoint_ap",
}


class DetectionTask:
    """Images with objects, the losses of torchvision's detectors, average precision.

    Implements :class:`slimmable.train.task.Task`. Every width learns from the labels: the losses are those of matched
    anchors and regions, which differ from width to width, and the widest network's boxes are no target for them.

    Args:
        kind: What is found: boxes; boxes and masks; boxes and keypoints.
        data: Which images, and how they are fed; drawn shapes unless said otherwise.
        network: Name of the detector; the usual one of the kind unless said otherwise.
        backbone: Name of the backbone, see :func:`slimmable.models.pyramids.pyramid`.
        size: How large the detector is.
        norm: What batch norms of the backbone do in training.
        keypoints: How many keypoints an object has.
        pretrained: Start from the backbone's published ImageNet weights.

    Raises:
        RecipeError: The detector does not go with the kind.

    References:
        Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 4.3.

    >>> data = SceneSettings(size=64, batch_size=2, train_images=2)
    >>> size = DetectorSize(width=0.25, neck=32)
    >>> task = DetectionTask("detection", data, network="fcos", backbone="resnet10", size=size)
    >>> batch = next(iter(task.train_batches(task.model(), epoch=0, seed=0)))
    >>> len(batch.images), task.loss(task.forward(task.model(), batch), batch).shape
    (2, torch.Size([]))
    """

    higher_is_better = True

    def __init__(
        self,
        kind: DetectionKind,
        data: SceneSettings | None = None,
        *,
        network: DetectorName | None = None,
        backbone: str = "resnet50",
        size: DetectorSize | None = None,
        norm: NormKind = "calibrated",
        keypoints: int = POINTS,
        pretrained: bool = False,
    ) -> None:
        if kind not in DETECTORS:
            raise RecipeError(f"kind is {kind!r}; expected one of {', '.join(DETECTORS)}")
        self.network: DetectorName = network or DETECTORS[kind][0]
        if self.network not in DETECTORS[kind]:
            raise RecipeError(f"{self.network} does not do {kind}; expected {' or '.join(DETECTORS[kind])}")
        self.name: str = kind
        self.metric: str = _METRICS[kind]
        self.keypoints = keypoints
        self.device = torch.device("cpu")
        self._kind: DetectionKind = kind
        self._backbone = backbone
        self._size = size or DetectorSize()
        self._norm: NormKind = norm
        self._pretrained = pretrained
        self.pipeline = ScenePipeline(
            data or SceneSettings(), masks=kind == "instance-segmentation", keypoints=kind == "keypoints"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, by label from 1.

        Raises:
            DataError: The data have other keypoints than the task.
        """
        vocabulary = self.pipeline.splits.vocabulary
        if self._kind == "keypoints" and len(vocabulary.keypoints) != self.keypoints:
            raise DataError(
                f"the data have {len(vocabulary.keypoints)} keypoints ({', '.join(vocabulary.keypoints)}), the network "
                f"has {self.keypoints}; set keypoints to the number of the data"
            )
        return vocabulary.classes

    def model(self) -> "DetectionNet":
        """A new, plain network for the categories of the data."""
        return self.network_of(len(self.classes), pretrained=self._pretrained)

    def network_of(self, classes: int, *, pretrained: bool = False) -> "DetectionNet":
        """A new, plain network for a number of categories, without a look at the data.

        Raises:
            MissingDependencyError: torchvision is not installed.
        """
        try:
            from slimmable.models.detection import build_detector
        except ImportError as error:
            raise MissingDependencyError(
                "detectors are torchvision's, which is not installed: pip install 'slimmable[detection]'"
            ) from error
        return build_detector(
            self.network,
            classes=classes,
            backbone=self._backbone,
            size=self._size,
            image_size=self.pipeline.settings.image_size,
            norm=self._norm,
            keypoints=self.keypoints,
            pretrained=pretrained,
        )

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two prepared images of noise, at most 256 pixels a side."""
        side = self.pipeline.settings.example_side
        return (torch.randn((2, 3, side, side), generator=seeded_generator(0)).to(self.device),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> TrainScenes:
        """Images in random order; ``net`` is not looked at."""
        return self.pipeline.train_batches(epoch=epoch, seed=seed, device=self.device)

    def validation_batches(self) -> WholeScenes:
        """Images for choosing anything; never the test images."""
        return self.pipeline.whole_scenes("validation", device=self.device)

    def test_batches(self) -> WholeScenes:
        """Images of the final figure."""
        return self.pipeline.whole_scenes("test", device=self.device)

    def calibration_batches(self, *, samples: int, seed: int) -> FirstInputs:
        """Up to ``samples`` training images, prepared."""
        return self.pipeline.calibration_batches(samples=samples, seed=seed, device=self.device)

    def forward(self, net: nn.Module, batch: SceneBatch) -> dict[str, Tensor] | list[Target]:
        """Losses by name in training; in evaluation what was found on every image."""
        return net(batch.images, batch.targets if net.training else None)

    def loss(self, outputs: dict[str, Tensor], batch: SceneBatch) -> Tensor:
        """Sum of the detector's losses."""
        return torch.stack(list(outputs.values())).sum()

    def distillation_loss(self, outputs: dict[str, Tensor], target: dict[str, Tensor], batch: SceneBatch) -> Tensor:
        """None: there is nothing to learn from.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            f"{self.name} has no loss against the widest network's boxes; every width learns from the labels, as in "
            "the paper: set train.distillation=false"
        )

    def metrics(self) -> AveragePrecision:
        """A new, empty metric."""
        return AveragePrecision(*_JUDGED[self._kind], keypoints=self.keypoints)

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``; the images are shared."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved
