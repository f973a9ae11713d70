"""Which images a task learns from, and how they are fed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slimmable.errors import RecipeError
from slimmable.tasks.bounds import Bounded

DatasetName = Literal["digits", "cifar10", "cifar100", "folder"]
Augmentation = Literal["none", "shift", "shift-flip", "resized-crop"]


@dataclass(frozen=True, kw_only=True)
class ImageDataSettings(Bounded):
    """Labelled images for classification.

    A folder holds ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*``. The final figures come from ``test/``;
    where there is none, from ``val/``, as is the custom with ImageNet. Validation uses ``val/`` if ``test/`` is there
    too, else a part held out from the training images: images that choose anything are never those of the final figure.

    Attributes:
        dataset: ``digits`` comes with scikit-learn, the CIFAR sets are torchvision's, ``folder`` is any image folder.
        root: Where the images lie; not needed for ``digits``.
        download: Fetch a CIFAR set that is not in ``root`` yet.
        image_size: Side in pixels of what the network sees; ``None`` is the data set's own, and for a folder the side
            its images share if they are all square and alike, else 224.
        channels: 1 for grey, 3 for colour; ``None`` is the data set's own, 3 for a folder.
        batch_size: Images in a batch. In training an incomplete last batch is left out.
        augmentation: ``shift`` crops at random after padding an eighth of the side with zeros (4 pixels at 32),
            ``shift-flip`` also mirrors half of the images (the CIFAR recipe), ``resized-crop`` takes a random area and
            aspect and mirrors (the ImageNet recipe). ``None`` chooses: ``shift`` for digits, ``resized-crop`` above 64
            pixels, else ``shift-flip``.
        crop_scale: Least and largest part of the area that ``resized-crop`` takes; ResNets are usually trained with
            (0.08, 1).
        color_jitter: Strength of random brightness, contrast and saturation with ``resized-crop``; 0 is off.
        train_samples: Train on this many images, balanced over the classes; ``None`` is all.
        test_samples: Test on this many images, balanced over the classes; ``None`` is all.
        validation_fraction: Part of every class held out from training where no validation images are given.
        split_seed: Seed of the held-out part and of the subsets, apart from the seed of a run.
        mean: Mean of every channel, taken off; ``None`` is the data set's own, ImageNet's for a folder.
        std: Standard deviation of every channel, divided by.
        memory_limit_gib: Images of a split are decoded once and kept if they take less than this.
        workers: Threads that decode, or processes that feed what is too large to be kept.
        progress: Show a bar while decoding.

    Raises:
        RecipeError: A value is out of its range.

    >>> ImageDataSettings(dataset="folder", root="flowers", image_size=64).batch_size
    128
    """

    dataset: DatasetName = "digits"
    root: str | Path | None = None
    download: bool = False
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    batch_size: int = 128
    augmentation: Augmentation | None = None
    crop_scale: tuple[float, float] = (0.25, 1.0)
    color_jitter: float = 0.0
    train_samples: int | None = None
    test_samples: int | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    memory_limit_gib: float = 2.0
    workers: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        names = get_args(DatasetName)
        self._require(self.dataset in names, "dataset", f"one of {', '.join(names)}")
        names = get_args(Augmentation)
        self._require(self.augmentation in (None, *names), "augmentation", f"one of {', '.join(names)}, or None")
        self._require(self.channels in (None, 1, 3), "channels", "1, 3, or None")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        self._require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1")
        self._require(0 < self.validation_fraction < 1, "validation_fraction", "above 0 and below 1")
        low, high = self.crop_scale
        self._require(0 < low <= high <= 1, "crop_scale", "two numbers, 0 < least <= largest <= 1")
        self._require(0 <= self.color_jitter <= 1, "color_jitter", "from 0 to 1")
        self._require(self.split_seed >= 0, "split_seed", "at least 0")
        self._require(self.workers >= 0, "workers", "at least 0")
        self._require(self.memory_limit_gib >= 0, "memory_limit_gib", "at least 0")
        self._require(self.std is None or all(value > 0 for value in self.std), "std", "above 0 in every channel")
        for key in ("train_samples", "test_samples"):
            value = getattr(self, key)
            self._require(value is None or value >= 1, key, "at least 1, or None for all images")
        if self.dataset != "digits" and self.root is None:
            raise RecipeError(f"ImageDataSettings.root is None; data set {self.dataset!r} lies in a folder: name it.")
