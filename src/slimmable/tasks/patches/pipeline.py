"""From settings to batches: what is kept in memory, and what is decoded again."""

from functools import cached_property
from typing import Literal

import torch

from slimmable.errors import DataError
from slimmable.tasks.first_inputs import FirstInputs
from slimmable.tasks.patches.batches import PatchBatches, WholeImages
from slimmable.tasks.patches.pairs import FilePairs, Pair
from slimmable.tasks.patches.settings import PatchDataSettings
from slimmable.tasks.patches.sources import PairSplits, load_pairs

SplitName = Literal["train", "validation", "test"]

_CALIBRATION = 1_000_000
"""Number of the epoch whose patches calibrate: none that is trained."""


class PatchPipeline:
    """Batches of pairs, which are listed when the first of them is asked for.

    A split whose images take less than ``settings.memory_limit_gib`` is decoded once and kept as bytes; others are
    decoded again for every patch.

    Args:
        settings: Which images, and how they are fed.
        scale: How many times larger the large ones are.
        least_side: Pixels that a large image must have on each side to be compared.
    """

    def __init__(self, settings: PatchDataSettings, *, scale: int, least_side: int = 1) -> None:
        self.settings = settings
        self.scale = scale
        self.least_side = least_side
        self._kept: dict[SplitName, list[Pair] | FilePairs] = {}

    @cached_property
    def splits(self) -> PairSplits:
        """The images, split; files are listed but not decoded.

        Raises:
            DataError: Files are missing.
        """
        return load_pairs(self.settings, scale=self.scale)

    def train_batches(self, *, epoch: int, seed: int, device: torch.device) -> PatchBatches:
        """Random patches of the training images.

        Raises:
            DataError: An image is smaller than a patch, or is no image.
        """
        pairs = self._pairs("train", at_least=self.settings.patch * self.scale)
        return PatchBatches(
            pairs=pairs,
            patch=self.settings.patch,
            batch_size=self.settings.batch_size,
            repeats=self.settings.repeats,
            workers=self.settings.workers if isinstance(pairs, FilePairs) else 0,
            device=device,
            seed_parts=(seed, epoch),
        )

    def whole_images(self, split: SplitName, *, device: torch.device) -> WholeImages:
        """The images of a split, one at a time.

        Raises:
            DataError: An image is too small to be compared, or is no image.
        """
        return WholeImages(pairs=self._pairs(split, at_least=self.least_side), device=device)

    def calibration_batches(self, *, samples: int, seed: int, device: torch.device) -> FirstInputs:
        """Up to ``samples`` small training patches."""
        batches = self.train_batches(epoch=_CALIBRATION, seed=seed, device=device)
        return FirstInputs(batches=batches, samples=samples, inputs=lambda batch, most: batch.low[:most])

    def _pairs(self, split: SplitName, *, at_least: int) -> list[Pair] | FilePairs:
        if split not in self._kept:
            files: FilePairs = getattr(self.splits, split)
            sizes = files.sizes()
            for file, (height, width) in zip(files.high, sizes, strict=True):
                # What does not divide by the scale is cut off.
                if min(height, width) // self.scale * self.scale < at_least:
                    raise DataError(
                        f"image {file} is {width}x{height} pixels; expected at least {at_least} a side at scale "
                        f"{self.scale}. Remove it, or set a smaller patch if it is to be learnt from."
                    )
            needed = 3 * sum(height * width for height, width in sizes) * (1 + 1 / self.scale**2)
            fits = needed < self.settings.memory_limit_gib * 2**30
            progress = self.settings.progress
            self._kept[split] = files.decoded(threads=self.settings.workers, progress=progress) if fits else files
        return self._kept[split]
