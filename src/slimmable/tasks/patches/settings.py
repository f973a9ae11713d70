"""Which images a task of making images larger learns from, and how they are fed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slimmable.tasks.bounds import ImageSetBounds

PatchDatasetName = Literal["photographs", "folder"]


@dataclass(frozen=True, kw_only=True)
class PatchDataSettings(ImageSetBounds):
    """Images for super-resolution.

    Small images are the large ones scaled down: bicubic with antialiasing, after what does not divide by the scale was
    cut off on the right and below. A folder is one of these:

    * DIV2K's: ``DIV2K_train_HR/*`` and ``DIV2K_valid_HR/*``. Small images in ``DIV2K_train_LR_bicubic/X2/0001x2.png``
      (and ``valid``, ``X3``, ``X4``) are used where that folder is there. The final figures come from ``valid``;
      validation images are held out from ``train``.
    * ``train/*`` and ``test/*`` or ``val/*`` or both, with the rules of :class:`slimmable.tasks.ImageDataSettings`.
    * Images anywhere below it, of which a part is held out for validation and as many for the test.

    Attributes:
        dataset: ``photographs`` are those that ship with scikit-image and scikit-learn; ``folder`` is any.
        root: Where the images lie; not needed for ``photographs``.
        patch: Side in pixels of the squares cut from small images for training.
        batch_size: Patches in a batch. In training an incomplete last batch is left out.
        repeats: Patches that an epoch takes from every image.
        train_images: Train on this many images; ``None`` is all.
        test_images: Test on this many images; ``None`` is all.
        held_out: Part of the training images that is held out where no images are given, at least one.
        split_seed: Seed of what is held out and of the subsets, apart from the seed of a run.
        memory_limit_gib: Images of a split are decoded once and kept if they take less than this.
        workers: Threads that decode, or processes that cut patches from what is too large to be kept.
        progress: Show a bar while many images are decoded.

    Raises:
        RecipeError: A value is out of its range.

    >>> PatchDataSettings(dataset="folder", root="DIV2K").patch
    48
    """

    dataset: PatchDatasetName = "photographs"
    root: str | Path | None = None
    patch: int = 48
    batch_size: int = 16
    repeats: int = 20
    train_images: int | None = None
    test_images: int | None = None
    held_out: float = 0.1
    split_seed: int = 0
    memory_limit_gib: float = 2.0
    workers: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        self._require_images(*get_args(PatchDatasetName))
        for key in ("patch", "repeats"):
            self._require(getattr(self, key) >= 1, key, "at least 1")
        self._require(self.memory_limit_gib >= 0, "memory_limit_gib", "at least 0")
