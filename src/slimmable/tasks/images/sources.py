"""The data sets: digits, CIFAR, any folder; split into training, validation and test images."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.tasks.images.decode import FileImages, common_side, with_channels
from slimmable.tasks.images.folder import FolderSplit, scan_folder
from slimmable.tasks.images.settings import DatasetName, ImageDataSettings
from slimmable.tasks.images.splits import balanced_subset, hold_out

MOMENTS: dict[DatasetName, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of every channel, in units of the full range; a folder's are ImageNet's."""

DIGITS_TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images, as bytes ``(N, H, W, C)`` or as files, and their classes ``(N,)``."""

    images: Tensor | FileImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "LabelledImages":
        """The images and labels at ``indices``."""
        images = self.images.take(indices) if isinstance(self.images, FileImages) else self.images[indices]
        return LabelledImages(images=images, labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """A data set that is ready to be fed.

    Attributes:
        train: Images to learn from.
        validation: Images to choose by.
        test: Images of the final figure.
        classes: Names, by label.
        image_size: Side in pixels of what the network sees.
        channels: 1 or 3.
        mean: Of every channel, in units of the full range.
        std: Of every channel, in units of the full range.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_splits(settings: ImageDataSettings) -> ImageSplits:
    """The data set that ``settings`` name, split; files are listed but not decoded.

    Raises:
        DataError: Files are missing or malformed.
        RecipeError: The settings do not fit them.
        MissingDependencyError: The package that brings the data set is not installed.

    >>> splits = load_splits(ImageDataSettings(dataset="digits"))
    >>> len(splits.train) + len(splits.validation) + len(splits.test), splits.image_size
    (1797, 8)
    """
    if settings.dataset == "digits":
        channels = settings.channels or 1
        everything, classes = _digits()
        learnt, test_indices = hold_out(
            everything.labels, DIGITS_TEST_FRACTION, seed=settings.split_seed, classes=classes
        )
        train, validation, test = everything.take(learnt), None, everything.take(test_indices)
        side = 8
    elif settings.dataset == "folder":
        channels = settings.channels or 3
        found = scan_folder(Path(settings.root or "."))
        train, validation, test = (split and _from_files(split, channels) for split in found)
        assert train is not None
        assert test is not None
        classes = found[0].classes
        side = settings.image_size or common_side(FileImages(found[0].files)) or 224
    else:
        channels = settings.channels or 3
        train, test, classes = _cifar(settings)
        validation = None
        side = 32
    if validation is None:
        kept, held = hold_out(train.labels, settings.validation_fraction, seed=settings.split_seed, classes=classes)
        train, validation = train.take(kept), train.take(held)
    mean, std = moments(settings, channels)
    return ImageSplits(
        train=_with_channels(_subset(train, settings.train_samples, settings.split_seed), channels),
        validation=_with_channels(validation, channels),
        test=_with_channels(_subset(test, settings.test_samples, settings.split_seed), channels),
        classes=classes,
        image_size=settings.image_size or side,
        channels=channels,
        mean=mean,
        std=std,
    )


def moments(settings: ImageDataSettings, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel by which images are normalised, in units of the full range.

    >>> moments(ImageDataSettings(dataset="digits"), 1)
    ((0.3053,), (0.376,))
    """
    mean, std = MOMENTS[settings.dataset]
    return _per_channel(settings.mean or mean, channels, "mean"), _per_channel(settings.std or std, channels, "std")


def _digits() -> tuple[LabelledImages, tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "data set 'digits' comes with scikit-learn: pip install 'slimmable[train]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    shades = torch.from_numpy(pixels).reshape(-1, 8, 8, 1)
    images = (shades * (255 / 16)).round().to(torch.uint8)
    return LabelledImages(images=images, labels=torch.from_numpy(labels).long()), tuple("0123456789")


def _from_files(split: FolderSplit, channels: int) -> LabelledImages:
    return LabelledImages(images=FileImages(split.files, channels), labels=split.labels)


def _cifar(settings: ImageDataSettings) -> tuple[LabelledImages, LabelledImages, tuple[str, ...]]:
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"data set {settings.dataset!r} is read by torchvision: pip install 'slimmable[vision]'"
        ) from error
    kind = datasets.CIFAR10 if settings.dataset == "cifar10" else datasets.CIFAR100
    root = Path(settings.root or ".")
    try:
        train, test = (kind(root, train=part, download=settings.download) for part in (True, False))
    except (RuntimeError, OSError) as error:
        cure = (
            "Check the connection and that the folder can be written."
            if settings.download
            else f"Set download=true, put torchvision's {kind.base_folder} there, or name a folder of images with "
            "dataset=folder."
        )
        raise DataError(
            f"{settings.dataset} is not in {root} ({error}); expected {root / kind.base_folder}. {cure}"
        ) from error
    splits = [
        LabelledImages(images=torch.from_numpy(part.data), labels=torch.tensor(part.targets)) for part in (train, test)
    ]
    return splits[0], splits[1], tuple(train.classes)


def _subset(images: LabelledImages, samples: int | None, seed: int) -> LabelledImages:
    return images if samples is None else images.take(balanced_subset(images.labels, samples, seed=seed))


def _with_channels(images: LabelledImages, channels: int) -> LabelledImages:
    if isinstance(images.images, FileImages):
        return images
    return LabelledImages(images=with_channels(images.images, channels), labels=images.labels)


def _per_channel(values: tuple[float, ...], channels: int, key: str) -> tuple[float, ...]:
    """One value per channel: a single one serves all, three serve grey by their average."""
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if len(values) == 3 and channels == 1:
        return (sum(values) / 3,)
    raise RecipeError(f"ImageDataSettings.{key} is {values}; expected {channels} numbers, one for each channel")
