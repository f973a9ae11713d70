"""What is learned, of semantic segmentation: the section ``task`` of its recipes."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field
from torch import nn

from slimmable.models.vision_options import DEVIATION, MEAN, SegmenterName
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.methods import Section
from slimmable.tasks.segmentation.settings import LabelMapSettings
from slimmable.tasks.segmentation.task import SegmentationTask
from slimmable.train import Task


class SegmenterSettings(Section):
    """Which segmentation network of torchvision.

    Attributes:
        name: ``deeplabv3``, ``fcn`` or ``lraspp``.
        backbone: A ResNet or MobileNet; see :func:`slimmable.models.pyramids.stages`.
        width: Multiplier of the backbone's channel counts before conversion.
        auxiliary: Whether there is a second head in training; null: for all but ``lraspp``.
        pretrained: Start from the backbone's published ImageNet weights.
    """

    name: SegmenterName = "deeplabv3"
    backbone: str = "resnet50"
    width: float = Field(default=1.0, gt=0)
    auxiliary: bool | None = None
    pretrained: bool = False


class SegmentationSettings(Section):
    """Every pixel named.

    Attributes:
        data: Which images, and how they are fed.
        network: Which network.
    """

    harmless: ClassVar[frozenset[str]] = frozenset({"data.root", "data.workers"})

    kind: Literal["segmentation"] = "segmentation"
    data: LabelMapSettings = LabelMapSettings()
    network: SegmenterSettings = SegmenterSettings()

    @property
    def root(self) -> str | Path | None:
        """Where the images lie."""
        return self.data.root

    def at(self, root: str | Path) -> Self:
        """The same with its images elsewhere."""
        return self.model_copy(update={"data": replace(self.data, root=str(root))})

    def build(self) -> SegmentationTask:
        """The task; images are read when the first batch, or the network, is asked for."""
        network = self.network
        return SegmentationTask(
            self.data,
            network=network.name,
            backbone=network.backbone,
            width=network.width,
            auxiliary=network.auxiliary,
            pretrained=network.pretrained,
        )

    def facts(self, task: Task) -> NetworkFacts:
        """The classes and the size of the example."""
        assert isinstance(task, SegmentationTask)
        return NetworkFacts.of(task, classes=task.classes)

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A network of as many classes."""
        return self.build().network_of(len(facts.classes))

    def preprocessing(self, facts: NetworkFacts) -> dict[str, Any]:
        """Sizes, mean and standard deviation: the centre of an image that is as large as in evaluation."""
        channels, height, width = facts.input_size
        return {
            "channels": channels,
            "resize": self.data.size,
            "size": [height, width],
            "mean": [*MEAN],
            "std": [*DEVIATION],
        }
