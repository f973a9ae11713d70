"""Where pairs come from: photographs that ship with two packages, DIV2K, or any folder."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from slimmable.errors import DataError, MissingDependencyError
from slimmable.tasks.images.folder import image_files
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.patches.pairs import FilePairs
from slimmable.tasks.patches.settings import PatchDataSettings

PHOTOGRAPHS: dict[Literal["train", "validation", "test"], tuple[str, ...]] = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "sklearn/datasets/images/china.jpg",
        "skimage/data/coins.png",
        "skimage/data/grass.png",
        "skimage/data/gravel.png",
        "skimage/data/ihc.png",
        # The left and the right eye's view of one scene: they stay together.
        "skimage/data/motorcycle_left.png",
        "skimage/data/motorcycle_right.png",
    ),
    "validation": ("skimage/data/rocket.jpg",),
    "test": ("skimage/data/chelsea.png", "skimage/data/coffee.png", "sklearn/datasets/images/flower.jpg"),
}
"""Photographs in the wheels of scikit-image and scikit-learn, by what they serve; nothing is downloaded."""


@dataclass(frozen=True, kw_only=True)
class PairSplits:
    """Pairs to learn from, to choose by, and of the final figures; no image is in two of them."""

    train: FilePairs
    validation: FilePairs
    test: FilePairs


def load_pairs(settings: PatchDataSettings, *, scale: int) -> PairSplits:
    """The images that ``settings`` name, split; files are listed but not decoded.

    Raises:
        DataError: Files are missing.
        MissingDependencyError: A package that brings photographs is not installed.
    """
    if settings.dataset == "photographs":
        files = {name: tuple(map(_packaged, paths)) for name, paths in PHOTOGRAPHS.items()}
        train, validation, test = (FilePairs(high=each, low=None, scale=scale) for each in files.values())
    else:
        train, validation, test = _folder(Path(settings.root or "."), settings, scale)
    if validation is None:
        train, validation = _held_out(train, settings)
    return PairSplits(
        train=_subset(train, settings.train_images, settings.split_seed),
        validation=validation,
        test=_subset(test, settings.test_images, settings.split_seed),
    )


def _packaged(path: str) -> str:
    package, _, inside = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        names = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
        raise MissingDependencyError(
            f"photographs come with {names[package]}: pip install 'slimmable[super-resolution]', or name a folder of "
            "images with dataset=folder"
        )
    return str(Path(spec.origin).parent / inside)


def _folder(root: Path, settings: PatchDataSettings, scale: int) -> tuple[FilePairs, FilePairs | None, FilePairs]:
    if not root.is_dir():
        raise DataError(
            f"root {root} is no folder; expected one with images, with train/ and test/ or val/, or with "
            "DIV2K_train_HR/ and DIV2K_valid_HR/."
        )
    if any((root / f"DIV2K_{part}_HR").is_dir() for part in ("train", "valid")):
        return _div2k(root, "train", scale), None, _div2k(root, "valid", scale)
    if (root / "train").is_dir():
        found = {name: _all(root / name, scale) for name in ("train", "val", "test") if (root / name).is_dir()}
        if len(found) == 1:
            raise DataError(
                f"{root} has train/ but neither test/ nor val/; expected one of them for the final figures. Move a "
                "part of the images there."
            )
        test = found.get("test", found.get("val"))
        assert test is not None
        return found["train"], found.get("val") if "test" in found else None, test
    everything = _all(root, scale)
    if len(everything) < 3:
        raise DataError(
            f"{root} holds {len(everything)} images; expected at least 3: to learn from, to choose by, and to test on. "
            "Add some."
        )
    rest, test = _held_out(everything, settings, draw=1)
    return rest, None, test


def _all(folder: Path, scale: int) -> FilePairs:
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder} holds no image; add images, such as .png or .jpg files, or name another root.")
    return FilePairs(high=tuple(files), low=None, scale=scale)


def _div2k(root: Path, part: Literal["train", "valid"], scale: int) -> FilePairs:
    large = root / f"DIV2K_{part}_HR"
    if not large.is_dir():
        raise DataError(f"{root} has no {large.name}/; expected DIV2K_train_HR/ and DIV2K_valid_HR/. Unpack it there.")
    pairs = _all(large, scale)
    small = root / f"DIV2K_{part}_LR_bicubic" / f"X{scale}"
    if not small.is_dir():
        return pairs
    low = tuple(str(small / f"{Path(file).stem}x{scale}.png") for file in pairs.high)
    missing = [file for file in low if not Path(file).is_file()]
    if missing:
        raise DataError(
            f"{missing[0]} is missing, and {len(missing) - 1} more; expected a small image for each of {large}. Unpack "
            f"all of them, or remove {small}: large images are then scaled down."
        )
    return FilePairs(high=pairs.high, low=low, scale=scale)


def _held_out(pairs: FilePairs, settings: PatchDataSettings, *, draw: int = 0) -> tuple[FilePairs, FilePairs]:
    """What stays and what is held out, at least one image each."""
    if len(pairs) < 2:
        raise DataError(
            f"there is a single image to learn from ({pairs.high[0]}); expected at least 2, one of them to be held out "
            "for validation. Add some."
        )
    count = min(max(1, round(settings.held_out * len(pairs))), len(pairs) - 1)
    order = torch.randperm(len(pairs), generator=seeded_generator(settings.split_seed, draw)).tolist()
    return pairs.take(sorted(order[count:])), pairs.take(sorted(order[:count]))


def _subset(pairs: FilePairs, count: int | None, seed: int) -> FilePairs:
    if count is None:
        return pairs
    if count > len(pairs):
        raise DataError(f"{count} images were asked for, but there are {len(pairs)}; ask for at most that many.")
    return pairs.take(sorted(torch.randperm(len(pairs), generator=seeded_generator(seed, 2)).tolist()[:count]))
