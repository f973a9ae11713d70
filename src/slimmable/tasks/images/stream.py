"""Batches of images too large to be kept decoded, fed by worker processes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimmable.errors import MissingDependencyError
from slimmable.tasks.images.decode import centre
from slimmable.tasks.images.memory import ImageBatch, Normalisation
from slimmable.tasks.images.settings import Augmentation
from slimmable.tasks.images.sources import LabelledImages
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.loading import loaded

Transform = Callable[[Tensor], Tensor]
"""From bytes ``(H, W, C)`` of any size to bytes ``(side, side, C)``."""


@dataclass(frozen=True, kw_only=True)
class CentreTransform:
    """The transform of evaluation: the middle of the image."""

    side: int
    shorter: int

    def __call__(self, image_HWC: Tensor) -> Tensor:
        """Bytes ``(side, side, C)`` of bytes ``(H, W, C)``."""
        return centre(image_HWC[None], self.side, shorter=self.shorter)[0]


@dataclass(frozen=True, kw_only=True)
class RandomTransform:
    """The transform of training; it draws from torch's default generator."""

    side: int
    augmentation: Augmentation
    padding: int
    crop_scale: tuple[float, float]
    color_jitter: float

    def __call__(self, image_HWC: Tensor) -> Tensor:
        """Bytes ``(side, side, C)`` of bytes ``(H, W, C)``."""
        transforms = _transforms()
        steps: list[Any] = []
        if self.augmentation == "resized-crop":
            steps = [transforms.RandomResizedCrop(self.side, scale=self.crop_scale, antialias=True)]
            if self.color_jitter:
                steps += [transforms.ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter)]
        else:
            image_HWC = centre(image_HWC[None], self.side, shorter=self.side)[0]
            if self.augmentation != "none":
                steps = [transforms.RandomCrop(self.side, padding=self.padding)]
        if self.augmentation in ("resized-crop", "shift-flip"):
            steps += [transforms.RandomHorizontalFlip()]
        image_CHW = image_HWC.permute(2, 0, 1)
        for step in steps:
            image_CHW = step(image_CHW)
        return image_CHW.permute(1, 2, 0).contiguous()


@dataclass(frozen=True, kw_only=True)
class StreamBatches:
    """Batches decoded while the network computes.

    What image ``i`` becomes depends on ``seed_parts`` and ``i`` alone, not on the number of workers.

    Attributes:
        source: Images and labels.
        transform: Applied to every image.
        batch_size: Images in a batch.
        normalise: Turns bytes into what the network sees.
        workers: Processes that decode; 0 decodes in this one.
        device: Where batches go.
        seed_parts: Numbers that the order and the augmentation depend on; ``None`` keeps the order and the last batch.
    """

    source: LabelledImages
    transform: Transform
    batch_size: int
    normalise: Normalisation
    workers: int
    device: torch.device
    seed_parts: tuple[int, ...] | None = None

    def __len__(self) -> int:
        if self.seed_parts is None:
            return math.ceil(len(self.source) / self.batch_size)
        return max(1, len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        seed_parts = self.seed_parts or (0,)
        generator = seeded_generator(*seed_parts)
        order: Sequence[int] = range(len(self.source))
        if self.seed_parts is not None:
            order = torch.randperm(len(self.source), generator=generator).tolist()
        for images, labels in loaded(
            _Transformed(source=self.source, transform=self.transform, seed_parts=seed_parts),
            order=order[: len(self) * self.batch_size],
            batch_size=self.batch_size,
            workers=self.workers,
            generator=generator,
            pin_memory=self.device.type == "cuda",
        ):
            images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
            yield ImageBatch(self.normalise(images), labels)


@dataclass(frozen=True, kw_only=True)
class _Transformed(Dataset[tuple[Tensor, Tensor]]):
    source: LabelledImages
    transform: Transform
    seed_parts: tuple[int, ...]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        seed = seeded_generator(*self.seed_parts, index).initial_seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(self.source.images[index]), self.source.labels[index]


def _transforms() -> Any:
    try:
        from torchvision.transforms import v2
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "augmenting images that do not fit into memory needs torchvision: pip install 'slimmable[vision]'"
        ) from error
    return v2
