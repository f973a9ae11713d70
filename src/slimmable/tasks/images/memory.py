"""Batches of images that lie decoded in memory, augmented a batch at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimmable.tasks.images.splits import seeded_generator


class ImageBatch(NamedTuple):
    """Normalised images ``(B, C, H, W)``, channels last in memory, and their classes ``(B,)``."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Per-channel ``(x / 255 - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images_BHWC: Tensor) -> Tensor:
        """Floats ``(B, C, H, W)``, channels last in memory, of bytes ``(B, H, W, C)``."""
        mean, std = (images_BHWC.new_tensor(values, dtype=torch.float32) for values in (self.mean, self.std))
        images = images_BHWC.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)
        return images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def random_crop(images_BHWC: Tensor, *, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Images shifted by up to ``padding`` pixels each way, zeros coming in, half of them mirrored if ``flip``.

    Args:
        images_BHWC: Bytes, ``(B, H, W, C)``.
        padding: Largest shift in pixels; every one from ``-padding`` to ``padding`` is equally likely.
        flip: Mirror left to right with probability a half.
        generator: Source of all randomness.

    Returns:
        Bytes of the same shape.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, Section 4.2.
    """
    count, height, width, _ = images_BHWC.shape
    device = images_BHWC.device
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(device)
    padded = F.pad(images_BHWC, (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (B, shifts, shifts, C, H, W): a view
    cropped_BCHW = windows[torch.arange(count, device=device), top, left]
    if flip:
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
        cropped_BCHW = torch.where(mirrored[:, None, None, None], cropped_BCHW.flip(3), cropped_BCHW)
    return cropped_BCHW.permute(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class MemoryBatches:
    """Batches cut from decoded images: shuffled and augmented, or as they lie.

    Iterating twice gives the same batches. Shuffling and augmentation depend on ``seed_parts`` alone.

    Attributes:
        images: Bytes, ``(N, H, W, C)``.
        labels: Classes, ``(N,)``, on the same device.
        batch_size: Images in a batch.
        normalise: Turns bytes into what the network sees.
        seed_parts: Numbers that the order and the augmentation depend on; ``None`` keeps the order, the images as they
            are, and an incomplete last batch.
        padding: Largest shift in pixels; 0 is none.
        flip: Mirror half of the images.
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    normalise: Normalisation
    seed_parts: tuple[int, ...] | None = None
    padding: int = 0
    flip: bool = False

    def __len__(self) -> int:
        if self.seed_parts is None:
            return math.ceil(len(self.labels) / self.batch_size)
        return max(1, len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        if self.seed_parts is None:
            for images, labels in zip(
                self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True
            ):
                yield ImageBatch(self.normalise(images), labels)
            return
        generator = seeded_generator(*self.seed_parts)
        order = torch.randperm(len(self.labels), generator=generator)
        for chosen in order.split(self.batch_size)[: len(self)]:
            chosen = chosen.to(self.labels.device)
            images = self.images[chosen]
            if self.padding or self.flip:
                images = random_crop(images, padding=self.padding, flip=self.flip, generator=generator)
            yield ImageBatch(self.normalise(images), self.labels[chosen])
