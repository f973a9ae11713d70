"""What is learned, of tasks that find objects: the section ``task`` of their recipes."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import nn

from slimmable.errors import DataError, RecipeError
from slimmable.models.vision_options import DetectorName, DetectorSize, NormKind
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.methods import Section
from slimmable.tasks.detection.scenes import POINTS
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.task import DETECTORS, DetectionKind, DetectionTask
from slimmable.train import Task


class DetectorSettings(Section):
    """Which detector of torchvision.

    Attributes:
        name: ``faster_rcnn``, ``retinanet`` or ``fcos`` for boxes, ``mask_rcnn`` for masks too, ``keypoint_rcnn`` for
            keypoints too.
        backbone: A ResNet or MobileNet; see :func:`slimmable.models.pyramids.pyramid`.
        size: How large the detector is before conversion.
        norm: Batch norms of the backbone: ``frozen`` keeps those that training begins with, each switch its own;
            ``calibrated`` uses the batch's statistics in training, and measured ones afterwards.
        keypoints: How many keypoints an object has.
        pretrained: Start from the backbone's published ImageNet weights.
    """

    name: DetectorName = "faster_rcnn"
    backbone: str = "resnet50"
    size: DetectorSize = DetectorSize()
    norm: NormKind = "calibrated"
    keypoints: int = Field(default=POINTS, ge=1)
    pretrained: bool = False


class DetectionSettings(Section):
    """Objects found on images.

    Attributes:
        kind: Boxes; boxes and masks (``instance-segmentation``); boxes and keypoints (``keypoints``).
        data: Which images, and how they are fed.
        network: Which detector.
    """

    harmless: ClassVar[frozenset[str]] = frozenset({"data.root", "data.workers"})

    kind: DetectionKind = "detection"
    data: SceneSettings = SceneSettings()
    network: DetectorSettings = DetectorSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.network.name not in DETECTORS[self.kind]:
            raise RecipeError(
                f"task.network.name is {self.network.name}, which does not do {self.kind}; expected "
                f"{' or '.join(DETECTORS[self.kind])}"
            )
        return self

    @property
    def root(self) -> str | Path | None:
        """Where the images lie."""
        return self.data.root

    def at(self, root: str | Path) -> Self:
        """The same with its images elsewhere."""
        return self.model_copy(update={"data": replace(self.data, root=str(root))})

    def build(self) -> DetectionTask:
        """The task; annotations are read when the first batch, or the network, is asked for."""
        network = self.network
        return DetectionTask(
            self.kind,
            self.data,
            network=network.name,
            backbone=network.backbone,
            size=network.size,
            norm=network.norm,
            keypoints=network.keypoints,
            pretrained=network.pretrained,
        )

    def facts(self, task: Task) -> NetworkFacts:
        """The categories, the size of the example, and what images are resized to."""
        assert isinstance(task, DetectionTask)
        return NetworkFacts.of(task, classes=task.classes, resize=self.data.image_size)

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A detector of as many categories, for images of these sizes."""
        if len(facts.resize) != 2:
            raise DataError(f"the network's facts have resize {facts.resize}; expected the sides images are resized to")
        size, max_size = facts.resize
        of_this_size = self.model_copy(update={"data": replace(self.data, size=size, max_size=max_size)})
        return of_this_size.build().network_of(len(facts.classes))

    def preprocessing(self, facts: NetworkFacts) -> None:
        """None: what goes before and after the network is more than its graph."""
