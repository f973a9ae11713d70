"""Image folders: one sub-folder per split, within it one per class."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slimmable.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, kw_only=True)
class FolderSplit:
    """Images of one split: their files, their labels, the names of the classes."""

    files: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]


def scan_split(folder: Path) -> FolderSplit:
    """Images below ``folder``, whose sub-folders are the classes.

    Classes and files come in alphabetical order. Hidden folders, and files that are no images by their ending, are
    passed over.

    Args:
        folder: One split of a data set.

    Raises:
        DataError: There is no such folder, no class in it, or a class without an image.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; expected class folders with images in it. Check root, or put them there."
        )
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(
            f"{folder} holds no class folders; expected one for each class, with its images: CLASS/IMAGE.jpg."
        )
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = image_files(folder / name)
        if not found:
            raise DataError(
                f"class folder {folder / name} holds no image; expected files ending in {', '.join(SUFFIXES)}. "
                "Add images, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    return FolderSplit(files=tuple(files), labels=torch.tensor(labels), classes=tuple(classes))


def scan_folder(root: Path) -> tuple[FolderSplit, FolderSplit | None, FolderSplit]:
    """Training, validation and test images below ``root``.

    Test images are those of ``test/``, or of ``val/`` where there is no ``test/``. Validation images are those of
    ``val/`` if both are there; else ``None``.

    Args:
        root: Folder that holds ``train/`` and ``test/`` or ``val/`` or both.

    Raises:
        DataError: A folder is missing or empty, or two splits do not have the same classes.
    """
    if not root.is_dir():
        raise DataError(f"root {root} is no folder; expected one that holds train/ and test/ or val/.")
    if not (root / "train").is_dir():
        raise DataError(
            f"{root} has no train/ folder; expected train/CLASS/IMAGE and test/CLASS/IMAGE or val/CLASS/IMAGE. Found: "
            f"{', '.join(sorted(entry.name for entry in root.iterdir())[:8]) or 'nothing'}."
        )
    found = {name: scan_split(root / name) for name in ("train", "val", "test") if (root / name).is_dir()}
    train = found.pop("train")
    if not found:
        raise DataError(
            f"{root} has neither test/ nor val/; expected one of them, with the same classes as train/, for the final "
            "figures. Move a part of the training images there."
        )
    for name, split in found.items():
        if split.classes != train.classes:
            odd = sorted(set(split.classes) ^ set(train.classes))[0]
            here, there = ("train", name) if odd in train.classes else (name, "train")
            raise DataError(
                f"class {odd!r} has a folder in {root / here} and none in {root / there}; expected the same classes in "
                "both. Add the folder, remove the other, or rename one if the spelling differs."
            )
    test = found.get("test", found.get("val"))
    assert test is not None
    return train, found.get("val") if "test" in found else None, test


def image_files(folder: Path) -> list[str]:
    """Files anywhere below ``folder`` that are images by their ending, in alphabetical order."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.join(parent, name) for name in names if name.lower().endswith(SUFFIXES)]  # noqa: PTH118
    return sorted(found)
