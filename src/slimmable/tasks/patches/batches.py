"""Batches of patches for training, and of whole images, one at a time, for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.loading import loaded
from slimmable.tasks.patches.pairs import Pair, Pairs

ORIENTATIONS = 8


class PatchBatch(NamedTuple):
    """Small images ``(B, 3, H, W)`` and large ones ``(B, 3, scale H, scale W)``, values between 0 and 1."""

    low: Tensor
    high: Tensor


def oriented(image_CHW: Tensor, orientation: int) -> Tensor:
    """One of the eight ways in which a square can lie: mirrored or not, turned by 0, 90, 180 or 270 degrees.

    Args:
        image_CHW: Any image.
        orientation: From 0, as it lies, to 7: bit 0 mirrors left to right, bit 1 top to bottom, bit 2 swaps the axes.
    """
    if orientation & 1:
        image_CHW = image_CHW.flip(2)
    if orientation & 2:
        image_CHW = image_CHW.flip(1)
    return image_CHW.transpose(1, 2) if orientation & 4 else image_CHW


def cut(pair: Pair, *, patch: int, corner: tuple[float, float], orientation: int) -> Pair:
    """The same square of both images, and the same way round.

    Args:
        pair: Small and large image.
        patch: Side of the square in the small image.
        corner: Where it lies between the first and the last place, each from 0 to 1, 1 excluded.
        orientation: As :func:`oriented` takes it.
    """
    scale = pair.high.shape[1] // pair.low.shape[1]
    top, left = (int(part * (side - patch + 1)) for part, side in zip(corner, pair.low.shape[1:], strict=True))
    low = pair.low[:, top : top + patch, left : left + patch]
    high = pair.high[:, top * scale : (top + patch) * scale, left * scale : (left + patch) * scale]
    # Cloned: a view would take the whole image along from a worker.
    return Pair(*(oriented(each, orientation).clone(memory_format=torch.contiguous_format) for each in (low, high)))


@dataclass(frozen=True, kw_only=True)
class PatchBatches:
    """Patches of random places and orientations.

    Iterating twice gives the same batches. They depend on ``seed_parts`` alone, not on the number of workers.

    Attributes:
        pairs: Images, at least ``patch`` pixels a side.
        patch: Side of a patch in pixels of the small image.
        batch_size: Patches in a batch.
        repeats: Patches of every image; an incomplete last batch is left out.
        workers: Processes that cut; 0 cuts in this one.
        device: Where batches go.
        seed_parts: Numbers that everything depends on.
    """

    pairs: Pairs
    patch: int
    batch_size: int
    repeats: int
    workers: int
    device: torch.device
    seed_parts: tuple[int, ...]

    def __len__(self) -> int:
        return max(1, len(self.pairs) * self.repeats // self.batch_size)

    def __iter__(self) -> Iterator[PatchBatch]:
        generator = seeded_generator(*self.seed_parts)
        turns = [torch.randperm(len(self.pairs), generator=generator) for _ in range(self.repeats)]
        images = torch.cat(turns)[: len(self) * self.batch_size]
        patches = _Patches(
            pairs=self.pairs,
            patch=self.patch,
            images=images.tolist(),
            corners=torch.rand(len(images), 2, generator=generator, dtype=torch.float64).tolist(),
            orientations=torch.randint(ORIENTATIONS, (len(images),), generator=generator).tolist(),
        )
        for low, high in loaded(
            patches,
            order=range(len(images)),
            batch_size=self.batch_size,
            workers=self.workers,
            generator=generator,
            pin_memory=self.device.type == "cuda",
        ):
            yield batch_of(low, high, self.device)


@dataclass(frozen=True, kw_only=True)
class WholeImages:
    """Every image by itself, as it is: their sizes differ.

    Attributes:
        pairs: The images.
        device: Where they go.
    """

    pairs: Pairs
    device: torch.device

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[PatchBatch]:
        for index in range(len(self.pairs)):
            low, high = self.pairs[index]
            yield batch_of(low[None], high[None], self.device)


def batch_of(low_BCHW: Tensor, high_BCHW: Tensor, device: torch.device) -> PatchBatch:
    """A batch on ``device`` from bytes."""
    low, high = (images.to(device, non_blocking=True).to(torch.float32).div_(255) for images in (low_BCHW, high_BCHW))
    return PatchBatch(low, high)


@dataclass(frozen=True, kw_only=True)
class _Patches(Dataset[Pair]):
    pairs: Pairs
    patch: int
    images: list[int]
    corners: list[tuple[float, float]]
    orientations: list[int]

    def __getitem__(self, index: int) -> Pair:
        pair = self.pairs[self.images[index]]
        return cut(pair, patch=self.patch, corner=self.corners[index], orientation=self.orientations[index])
