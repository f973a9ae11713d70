"""Batches of squares with labels for training, and of whole images, one at a time, for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from slimmable.models.vision_options import DEVIATION, MEAN
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.loading import loaded
from slimmable.tasks.segmentation.maps import IGNORED, LabelMap, LabelMaps


class MapBatch(NamedTuple):
    """Normalised images ``(B, 3, H, W)`` and labels ``(B, H, W)``."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Look:
    """How one training image is looked at: factor of its size, place of the square, mirrored or not."""

    scale: float
    corner: tuple[float, float]
    flip: bool


def resized(pixels: LabelMap, shorter: int) -> LabelMap:
    """An image whose shorter side is ``shorter``: colours bilinear and antialiased, labels of the nearest pixel."""
    height, width = pixels.labels.shape
    factor = shorter / min(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size == (height, width):
        return pixels
    image = F.interpolate(pixels.image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    labels = F.interpolate(pixels.labels[None, None].float(), size=size, mode="nearest-exact")[0, 0]
    return LabelMap(image.round().clamp(0, 255).to(torch.uint8), labels.to(torch.uint8))


def square(pixels: LabelMap, *, size: int, crop: int, look: Look) -> LabelMap:
    """A square of an image; what lies outside is black and counts nowhere.

    Args:
        pixels: The image.
        size: Length of its shorter side at scale 1.
        crop: Side of the square.
        look: How it is cut.
    """
    image, labels = resized(pixels, max(1, round(size * look.scale)))
    across, down = max(0, crop - image.shape[2]), max(0, crop - image.shape[1])
    image, labels = F.pad(image, (0, across, 0, down)), F.pad(labels, (0, across, 0, down), value=IGNORED)
    top, left = (int(part * (side - crop + 1)) for part, side in zip(look.corner, labels.shape, strict=True))
    image, labels = image[:, top : top + crop, left : left + crop], labels[top : top + crop, left : left + crop]
    return LabelMap(*(each.flip(-1) if look.flip else each.clone() for each in (image, labels)))


def batch_of(images_BCHW: Tensor, labels_BHW: Tensor, device: torch.device) -> MapBatch:
    """A batch on ``device`` from bytes."""
    images = images_BCHW.to(device).float().div_(255)
    mean, deviation = (images.new_tensor(each).view(1, 3, 1, 1) for each in (MEAN, DEVIATION))
    return MapBatch((images - mean) / deviation, labels_BHW.to(device).long())


@dataclass(frozen=True, kw_only=True)
class TrainMaps:
    """Squares of random scales and places, half of them mirrored.

    Iterating twice gives the same batches. They depend on ``seed_parts`` alone, not on the number of workers.

    Attributes:
        maps: The images.
        size: Length of their shorter side at scale 1.
        crop: Side of a square.
        scales: Least and largest scale.
        batch_size: Squares in a batch; an incomplete last batch is left out.
        flip: Whether to mirror.
        workers: Processes that cut; 0 cuts in this one.
        device: Where batches go.
        seed_parts: Numbers that everything depends on.
    """

    maps: LabelMaps
    size: int
    crop: int
    scales: tuple[float, float]
    batch_size: int
    flip: bool
    workers: int
    device: torch.device
    seed_parts: tuple[int, ...]

    def __len__(self) -> int:
        return max(1, len(self.maps) // self.batch_size)

    def __iter__(self) -> Iterator[MapBatch]:
        generator = seeded_generator(*self.seed_parts)
        order = torch.randperm(len(self.maps), generator=generator)[: len(self) * self.batch_size].tolist()
        draws = torch.rand(len(order), 4, generator=generator, dtype=torch.float64).tolist()
        least, most = self.scales
        looks = [
            Look(least + (most - least) * scale, (top, left), self.flip and side < 0.5)
            for scale, top, left, side in draws
        ]
        for images, labels in loaded(
            _Squares(self, order, looks),
            order=range(len(order)),
            batch_size=self.batch_size,
            workers=self.workers,
            generator=generator,
        ):
            yield batch_of(images, labels, self.device)


@dataclass(frozen=True, kw_only=True)
class WholeMaps:
    """Every image by itself, its shorter side resized.

    Attributes:
        maps: The images.
        size: Length of the shorter side.
        device: Where they go.
    """

    maps: LabelMaps
    size: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[MapBatch]:
        for index in range(len(self.maps)):
            image, labels = resized(self.maps[index], self.size)
            yield batch_of(image[None], labels[None], self.device)


class _Squares(Dataset[LabelMap]):
    def __init__(self, its: TrainMaps, order: list[int], looks: list[Look]) -> None:
        self.its, self.order, self.looks = its, order, looks

    def __getitem__(self, index: int) -> LabelMap:
        pixels = self.its.maps[self.order[index]]
        return square(pixels, size=self.its.size, crop=self.its.crop, look=self.looks[index])
