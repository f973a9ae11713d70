"""Image classification."""

import copy
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.errors import DataError, RecipeError
from slimmable.models import build_model
from slimmable.tasks.accuracy import ClassificationMetric
from slimmable.tasks.first_inputs import FirstInputs
from slimmable.tasks.images.memory import ImageBatch, MemoryBatches
from slimmable.tasks.images.pipeline import ImagePipeline
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.images.stream import StreamBatches
from slimmable.tasks.losses import soft_cross_entropy


class ClassificationTask:
    """Labelled images, cross-entropy, accuracy.

    Implements :class:`slimmable.train.task.Task`. Data are read when the first batch is asked for.

    Args:
        data: Which images, and how they are fed; scikit-learn's digits unless said otherwise.
        network: Name of the network as :func:`slimmable.models.build_model` takes it, or a function that returns a new
            one.
        width: Multiplier of every channel count, for networks built at several.
        dropout: Share of the last layer's inputs that dropout sets to zero; None is the network's own.
        pretrained: Start from published weights.
        label_smoothing: Share of the target spread evenly over all classes, in the loss against labels only.

    Raises:
        RecipeError: An option is out of its range, or does not go with a function as ``network``.

    >>> task = ClassificationTask(ImageDataSettings(batch_size=32))
    >>> batch = next(iter(task.validation_batches()))
    >>> batch.images.shape, task.loss(task.forward(task.model(), batch), batch).shape
    (torch.Size([32, 1, 8, 8]), torch.Size([]))
    """

    name = "classification"
    metric = "accuracy"
    higher_is_better = True

    def __init__(
        self,
        data: ImageDataSettings | None = None,
        *,
        network: str | Callable[[], nn.Module] = "digits_cnn",
        width: float | None = None,
        dropout: float | None = None,
        pretrained: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise RecipeError(f"label_smoothing is {label_smoothing}; expected at least 0 and below 1")
        if not isinstance(network, str) and (width is not None or dropout is not None or pretrained):
            raise RecipeError("width, dropout and pretrained go with a network's name; a function decides them itself.")
        self.pipeline = ImagePipeline(data or ImageDataSettings())
        self.device = torch.device("cpu")
        self._network = network
        self._width = width
        self._dropout = dropout
        self._pretrained = pretrained
        self._label_smoothing = label_smoothing

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.pipeline.splits.classes

    def model(self) -> nn.Module:
        """A new, plain network with an output for every class.

        Raises:
            RecipeError: The network cannot be built, or takes images of another number of channels.
        """
        if not isinstance(self._network, str):
            return self._network()
        built = build_model(
            self._network,
            num_classes=len(self.classes),
            width=self._width,
            dropout=self._dropout,
            pretrained=self._pretrained,
        )
        if built.input_size[0] != self.pipeline.splits.channels:
            raise RecipeError(
                f"network {self._network!r} takes images of {built.input_size[0]} channels, the data have "
                f"{self.pipeline.splits.channels}; set channels={built.input_size[0]} in the data settings."
            )
        return built.model

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two images of noise: under constant ones, two networks that differ could give the same output."""
        splits = self.pipeline.splits
        size = (2, splits.channels, splits.image_size, splits.image_size)
        return (torch.randn(size, generator=seeded_generator(0)).to(self.device),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> MemoryBatches | StreamBatches:
        """Shuffled and augmented training images; ``net`` is not looked at."""
        return self.pipeline.train_batches(epoch=epoch, seed=seed, device=self.device)

    def validation_batches(self) -> MemoryBatches | StreamBatches:
        """Images for choosing anything: given as such, or held out from training; never the test images."""
        return self.pipeline.plain_batches("validation", device=self.device)

    def test_batches(self) -> MemoryBatches | StreamBatches:
        """Images of the final figure."""
        return self.pipeline.plain_batches("test", device=self.device)

    def calibration_batches(self, *, samples: int, seed: int) -> FirstInputs:
        """Up to ``samples`` random training images, varied as in training, without labels."""
        return self.pipeline.calibration_batches(samples=samples, seed=seed, device=self.device)

    def forward(self, net: nn.Module, batch: ImageBatch) -> Tensor:
        """Logits ``(B, K)``.

        Raises:
            DataError: The network returns something else.
        """
        outputs = net(batch.images)
        expected = (len(batch.labels), len(self.classes))
        if not isinstance(outputs, Tensor) or outputs.shape != expected:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"the network returned {found}; expected logits of shape {expected}, one for each "
                f"class. Build it with num_classes={len(self.classes)} and without auxiliary outputs."
            )
        return outputs

    def loss(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        """Cross-entropy against the labels, with label smoothing, mean over the batch."""
        return F.cross_entropy(outputs, batch.labels, label_smoothing=self._label_smoothing)

    def distillation_loss(self, outputs: Tensor, target: Tensor, batch: ImageBatch) -> Tensor:
        """Cross-entropy against the widest network's prediction, summed over classes, mean over the batch."""
        return soft_cross_entropy(outputs, target)

    def metrics(self) -> ClassificationMetric:
        """A new, empty metric."""
        return ClassificationMetric()

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``; the data are shared."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved
