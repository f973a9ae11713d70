"""Folders with annotations in COCO's format, read through torchvision."""

import contextlib
import io
import os
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch

from slimmable.errors import DataError, MissingDependencyError
from slimmable.tasks.detection.scenes import Scene, Vocabulary, clipped, is_crowd, target_of
from slimmable.tasks.images.splits import seeded_generator

_ROBOFLOW = "_annotations.coco.json"
_NAMES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}

_Place = tuple[Path, Path]
"""A file of annotations, and the folder of its images."""


@dataclass(frozen=True, kw_only=True)
class CocoScenes:
    """Images of one file of annotations, which are read when they are asked for.

    Attributes:
        source: torchvision's ``CocoDetection``.
        chosen: Which of its images.
        vocabulary: Names of categories and keypoints.
        masks: Whether masks are wanted.
        keypoints: Whether keypoints are wanted.
    """

    source: Any = field(repr=False)
    chosen: tuple[int, ...]
    vocabulary: Vocabulary
    masks: bool
    keypoints: bool

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Scene:
        """One image.

        Raises:
            DataError: The image is missing, damaged or of another size than the file says, or an annotation is
                malformed.
        """
        from torchvision.transforms.functional import pil_to_tensor

        number = self.chosen[index]
        listed = self.source.coco.imgs[self.source.ids[number]]
        name = f"image {listed['file_name']} in {self.source.root}"
        try:
            picture, annotations = self.source[number]
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{name} cannot be read: {error}") from error
        image = pil_to_tensor(picture)
        size = (image.shape[1], image.shape[2])
        annotated = (listed.get("height") or size[0], listed.get("width") or size[1])
        if annotated != size:
            raise DataError(
                f"{name} is {size[1]} x {size[0]} pixels (width x height) as it is stored, but annotated as "
                f"{annotated[1]} x {annotated[0]}; expected one size. Was it resized, or does an EXIF tag turn it? "
                "Store the image as it was annotated."
            )
        return Scene(image, target_of(annotations, size, self.vocabulary, masks=self.masks, keypoints=self.keypoints))

    def take(self, places: list[int]) -> "CocoScenes":
        """Some of the images."""
        return CocoScenes(
            source=self.source,
            chosen=tuple(self.chosen[i] for i in places),
            vocabulary=self.vocabulary,
            masks=self.masks,
            keypoints=self.keypoints,
        )

    def with_objects(self) -> "CocoScenes":
        """Images with an object that is no crowd, and can be learnt from.

        Raises:
            DataError: An annotation is malformed.
        """
        return self.take([place for place, number in enumerate(self.chosen) if self._has_objects(number)])

    def _has_objects(self, number: int) -> bool:
        coco, image = self.source.coco, self.source.ids[number]
        size = (coco.imgs[image].get("height") or inf, coco.imgs[image].get("width") or inf)
        objects = coco.imgToAnns.get(image, ())
        return any(not is_crowd(each) and clipped(each, size) is not None for each in objects)


def coco_parts(root: Path, *, masks: bool, keypoints: bool) -> dict[str, CocoScenes]:
    """The annotated parts of a folder: ``train``, ``val`` and ``test``, as far as there are any.

    Raises:
        DataError: There are no annotations in COCO's format, or those of several years; their images are missing, or
            listed twice; or two parts have other categories.
    """
    if not root.is_dir():
        raise DataError(f"root {root} is no folder; expected one with annotations/ in COCO's format.")
    places = _places(root, keypoints=keypoints)
    found = {part: _opened(*place, masks=masks, keypoints=keypoints) for part, place in places.items()}
    for part, scenes in found.items():
        if scenes.vocabulary != found["train"].vocabulary:
            raise DataError(
                f"annotations of {part} in {root} have other categories than those of train; make them alike."
            )
    _require_apart(found)
    return found


def _places(root: Path, *, keypoints: bool) -> dict[str, _Place]:
    """Where the parts are: beside their images, or in ``annotations/`` with one ending, such as a year."""
    beside: dict[str, _Place] = {}
    listed: dict[str, dict[str, _Place]] = {}
    for part, names in _NAMES.items():
        own = [file for name in names if (file := root / name / _ROBOFLOW).is_file()]
        if own:
            beside[part] = own[0], own[0].parent
        elif endings := _by_ending(root, names, keypoints=keypoints):
            listed[part] = endings
    present = [part for part in _NAMES if part in beside or part in listed]
    if "train" not in present or len(present) < 2:
        raise DataError(
            f"{root} has annotations of {', '.join(present) or 'no part'}; expected train and val (or test): "
            f"annotations/instances_train2017.json for the images in train2017/, or train/{_ROBOFLOW}."
        )
    if not listed:
        return beside
    common = set.intersection(*(set(endings) for endings in listed.values()))
    if len(common) != 1:
        files = sorted(file.name for endings in listed.values() for file, _ in endings.values())
        raise DataError(
            f"{root / 'annotations'} has {', '.join(files)}, and images of each; expected one ending that all of "
            f"{', '.join(listed)} have, such as 2017: parts of several years share images. Keep the files of one "
            "ending there, and take the others away."
        )
    (ending,) = common
    return {part: beside[part] if part in beside else listed[part][ending] for part in present}


def _by_ending(root: Path, names: tuple[str, ...], *, keypoints: bool) -> dict[str, _Place]:
    """Files in ``annotations/`` of a part of which the images are there, by what follows the part's name."""
    found: dict[str, _Place] = {}
    without: list[str] = []
    for kind in ("person_keypoints", "instances") if keypoints else ("instances", "person_keypoints"):
        for file in sorted((root / "annotations").glob(f"{kind}_{names[0]}*.json")):
            folder = file.stem.removeprefix(f"{kind}_")
            ending = folder.removeprefix(max((name for name in names if folder.startswith(name)), key=len))
            places = [place for place in (root / folder, root / "images" / folder) if place.is_dir()]
            if places:
                found.setdefault(ending, (file, places[0]))
            else:
                without.append(f"{file.name}, but no folder {folder}/ with its images")
    if without and not found:
        raise DataError(f"{root} has {'; '.join(without)}; add it, or take the file away.")
    return found


def _require_apart(parts: dict[str, CocoScenes]) -> None:
    """No image is listed twice: held out, it would be learnt from all the same."""
    seen: dict[str, str] = {}
    for part, scenes in parts.items():
        folder = os.path.realpath(scenes.source.root)
        for image in scenes.source.coco.imgs.values():
            path = os.path.normpath(Path(folder, image["file_name"]))
            if path in seen:
                where = f"in {part}" if seen[path] == part else f"in {seen[path]} and in {part}"
                raise DataError(f"image {path} is listed twice, {where}; expected every image in one part, once.")
            seen[path] = part


def _opened(file: Path, folder: Path, *, masks: bool, keypoints: bool) -> CocoScenes:
    try:
        import pycocotools  # noqa: F401
        from torchvision.datasets import CocoDetection
    except ImportError as error:
        raise MissingDependencyError(
            "annotations in COCO's format need pycocotools, which is not installed: pip install 'slimmable[detection]'"
        ) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its progress
            source = CocoDetection(str(folder), str(file))
        if not all(isinstance(image["file_name"], str) for image in source.coco.imgs.values()):
            raise TypeError("a file_name is no string")
        vocabulary = Vocabulary.of(list(source.coco.dataset["categories"]))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"{file} cannot be read as annotations in COCO's format: {error!r}") from error
    if not vocabulary.classes or (keypoints and not vocabulary.keypoints):
        missing = "keypoints" if vocabulary.classes else "categories"
        raise DataError(f"{file} names no {missing}; expected them in its categories, as COCO's format has them.")
    return CocoScenes(
        source=source, chosen=tuple(range(len(source))), vocabulary=vocabulary, masks=masks, keypoints=keypoints
    )


def subset(scenes: CocoScenes, count: int | None, *, seed: int) -> CocoScenes:
    """``count`` images, drawn by ``seed``; all of them where it is None.

    Raises:
        DataError: There are fewer.
    """
    if count is None:
        return scenes
    if count > len(scenes):
        raise DataError(f"{count} images were asked for, but there are {len(scenes)}; ask for at most that many.")
    return scenes.take(sorted(torch.randperm(len(scenes), generator=seeded_generator(seed, 2)).tolist()[:count]))


def held_out(scenes: CocoScenes, part: float, *, seed: int) -> tuple[CocoScenes, CocoScenes]:
    """What stays and what is held out, at least one image each.

    Raises:
        DataError: There is but one image.
    """
    if len(scenes) < 2:
        raise DataError(f"there are {len(scenes)} images with objects to learn from; expected at least 2. Add some.")
    count = min(max(1, round(part * len(scenes))), len(scenes) - 1)
    order = torch.randperm(len(scenes), generator=seeded_generator(seed, 0)).tolist()
    return scenes.take(sorted(order[count:])), scenes.take(sorted(order[:count]))
