"""What is learned: the sections of a recipe in which tasks differ, and what recipes ask of each.

A new task is one more section, with ``kind``, that does what :class:`TaskSection` says, in the union
:data:`TaskSettings`. Nothing else of this room knows a task by its name.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeAlias, get_args

from pydantic import Discriminator, Field, Tag
from torch import nn

from slimmable.models import build_model
from slimmable.models.upscalers import Scale, build_upscaler
from slimmable.recipes.detection_sections import DetectionSettings
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.methods import Section
from slimmable.recipes.segmentation_sections import SegmentationSettings
from slimmable.tasks import ClassificationTask, ImageDataSettings, PatchDataSettings, SuperResolutionTask
from slimmable.tasks.detection.task import DetectionKind
from slimmable.tasks.images.pipeline import preprocessing
from slimmable.tasks.super_resolution import PixelLoss
from slimmable.train import Task


class TaskSection(Protocol):
    """What recipes ask of a task's section.

    Attributes:
        harmless: Keys of the section that change no result, such as ``data.workers``.
    """

    harmless: ClassVar[frozenset[str]]

    @property
    def root(self) -> str | Path | None:
        """Where the data lie; None if they have no place."""
        ...

    def at(self, root: str | Path) -> Self:
        """The same with its data elsewhere."""
        ...

    def build(self) -> Task:
        """The task; data are read when the first batch, or the network, is asked for."""
        ...

    def facts(self, task: Task) -> NetworkFacts:
        """What the network can be built from again without the data.

        Args:
            task: What :meth:`build` returned.
        """
        ...

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A plain network of the right size; published weights are not fetched, for others are about to be loaded."""
        ...

    def preprocessing(self, facts: NetworkFacts) -> dict[str, Any] | None:
        """How an image becomes an input, for those who run the network without this library; None: as it is."""
        ...


class NetworkSettings(Section):
    """Which network; the data decide how many classes it tells apart.

    Attributes:
        name: Of this library, torchvision or timm, or ``module:function``; see :func:`slimmable.models.build_model`.
        width: Multiplier of every channel count before conversion, for networks that are built at several.
        dropout: Share of the last layer's inputs that dropout sets to zero, for networks that take it.
        pretrained: Start from published weights.
    """

    name: str
    width: float | None = Field(default=None, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    pretrained: bool = False


class ClassificationSettings(Section):
    """Image classification.

    Attributes:
        data: Which images, and how they are fed.
        network: Which network.
        label_smoothing: Share of the target spread over all classes, in the loss against labels.
    """

    harmless: ClassVar[frozenset[str]] = frozenset(
        f"data.{name}" for name in ("root", "download", "memory_limit_gib", "workers", "progress")
    )

    kind: Literal["classification"] = "classification"
    data: ImageDataSettings = ImageDataSettings()
    network: NetworkSettings = NetworkSettings(name="digits_cnn")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    @property
    def root(self) -> str | Path | None:
        """Where the images lie."""
        return self.data.root

    def at(self, root: str | Path) -> Self:
        """The same with its images elsewhere."""
        return self.model_copy(update={"data": replace(self.data, root=str(root))})

    def build(self) -> ClassificationTask:
        """The task; data are read when the first batch, or the network, is asked for."""
        network = self.network
        return ClassificationTask(
            self.data,
            network=network.name,
            width=network.width,
            dropout=network.dropout,
            pretrained=network.pretrained,
            label_smoothing=self.label_smoothing,
        )

    def facts(self, task: Task) -> NetworkFacts:
        """The classes and the size of an image."""
        assert isinstance(task, ClassificationTask)
        return NetworkFacts.of(task, classes=task.classes)

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A network with an output for every class."""
        network = self.network
        classes = len(facts.classes)
        return build_model(network.name, num_classes=classes, width=network.width, dropout=network.dropout).model

    def preprocessing(self, facts: NetworkFacts) -> dict[str, Any]:
        """Sizes, mean and standard deviation."""
        return preprocessing(self.data, facts.input_size)


class UpscalerSettings(Section):
    """Which network makes images larger.

    Attributes:
        name: ``wdsr_a``, ``wdsr_b``, or ``module:function``; see :func:`slimmable.models.upscalers.build_upscaler`.
        width: Multiplier of every channel count before conversion; WDSR has 64 features at 1.
        blocks: Number of blocks of a WDSR.
    """

    name: str = "wdsr_a"
    width: float | None = Field(default=None, gt=0)
    blocks: int | None = Field(default=None, ge=1)


class SuperResolutionSettings(Section):
    """Images made larger.

    Attributes:
        scale: How many times larger.
        data: Which images, and how they are fed.
        network: Which network.
        loss: Mean absolute (``l1``) or squared (``l2``) error against the images themselves.
        distillation_loss: The same against the widest network's prediction.
    """

    harmless: ClassVar[frozenset[str]] = frozenset(
        f"data.{name}" for name in ("root", "memory_limit_gib", "workers", "progress")
    )

    kind: Literal["super-resolution"] = "super-resolution"
    scale: Scale = 2
    data: PatchDataSettings = PatchDataSettings()
    network: UpscalerSettings = UpscalerSettings()
    loss: PixelLoss = "l1"
    distillation_loss: PixelLoss = "l1"

    @property
    def root(self) -> str | Path | None:
        """Where the images lie."""
        return self.data.root

    def at(self, root: str | Path) -> Self:
        """The same with its images elsewhere."""
        return self.model_copy(update={"data": replace(self.data, root=str(root))})

    def build(self) -> SuperResolutionTask:
        """The task; images are read when the first batch is asked for."""
        return SuperResolutionTask(
            self.data,
            scale=self.scale,
            network=self.network.name,
            width=self.network.width,
            blocks=self.network.blocks,
            loss=self.loss,
            distillation_loss=self.distillation_loss,
        )

    def facts(self, task: Task) -> NetworkFacts:
        """The size of the example, though any size will do."""
        return NetworkFacts.of(task)

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A network of this scale."""
        network = self.network
        return build_upscaler(network.name, scale=self.scale, width=network.width, blocks=network.blocks)

    def preprocessing(self, facts: NetworkFacts) -> None:
        """None: red, green and blue between 0 and 1."""


def _kind(value: Any) -> str | None:
    """The kind that a section names; one that names none is of classification, the only one there was once."""
    kind = value.get("kind", "classification") if isinstance(value, dict) else getattr(value, "kind", None)
    return "detection" if kind in get_args(DetectionKind) else kind


TaskSettings: TypeAlias = Annotated[
    Annotated[ClassificationSettings, Tag("classification")]
    | Annotated[SuperResolutionSettings, Tag("super-resolution")]
    | Annotated[DetectionSettings, Tag("detection")]
    | Annotated[SegmentationSettings, Tag("segmentation")],
    Discriminator(_kind),
]
"""The section ``task`` of a recipe, by its ``kind``."""
