"""Folders with annotations in COCO's format, read through torchvision."""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from slimmable.errors import DataError, MissingDependencyError
from slimmable.tasks.detection.scenes import Scene, Vocabulary, target_of
from slimmable.tasks.images.splits import seeded_generator

_ROBOFLOW = "_annotations.coco.json"


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
            DataError: The image is missing or damaged, or an annotation is malformed.
        """
        from torchvision.transforms.functional import pil_to_tensor

        number = self.chosen[index]
        try:
            picture, annotations = self.source[number]
        except (OSError, SyntaxError, ValueError) as error:
            name = self.source.coco.loadImgs(self.source.ids[number])[0].get("file_name")
            raise DataError(f"image {name} in {self.source.root} cannot be read: {error}") from error
        image = pil_to_tensor(picture)
        size = (image.shape[1], image.shape[2])
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
        """Images with an object that is no crowd, and can be learnt from."""
        coco = self.source.coco
        kept = [
            i
            for i, number in enumerate(self.chosen)
            if any(_counts(each) for each in coco.imgToAnns.get(self.source.ids[number], ()))
        ]
        return self.take(kept)


def _counts(annotation: dict[str, Any]) -> bool:
    box = annotation.get("bbox") or [0, 0, 0, 0]
    return not annotation.get("iscrowd") and box[2] > 0 and box[3] > 0


def coco_parts(root: Path, *, masks: bool, keypoints: bool) -> dict[str, CocoScenes]:
    """The annotated parts of a folder: ``train``, ``val`` and ``test``, as far as there are any.

    Raises:
        DataError: There are no annotations in COCO's format, their images are missing, or two parts have other
            categories.
    """
    if not root.is_dir():
        raise DataError(f"root {root} is no folder; expected one with annotations/ in COCO's format.")
    found: dict[str, CocoScenes] = {}
    for part, names in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        file = _file(root, names, keypoints=keypoints)
        if file is not None:
            found[part] = _opened(*file, masks=masks, keypoints=keypoints)
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"{root} has annotations of {', '.join(found) or 'no part'}; expected train and val (or test): "
            f"annotations/instances_train2017.json for the images in train2017/, or train/{_ROBOFLOW}."
        )
    classes = {part: scenes.vocabulary for part, scenes in found.items()}
    for part, vocabulary in classes.items():
        if vocabulary != classes["train"]:
            raise DataError(
                f"annotations of {part} in {root} have other categories than those of train; make them alike."
            )
    return found


def _file(root: Path, names: tuple[str, ...], *, keypoints: bool) -> tuple[Path, Path] | None:
    """Annotations of a part, and the folder of its images."""
    for name in names:
        beside = root / name / _ROBOFLOW
        if beside.is_file():
            return beside, beside.parent
        for kind in ("person_keypoints", "instances") if keypoints else ("instances", "person_keypoints"):
            for file in sorted((root / "annotations").glob(f"{kind}_{name}*.json")):
                folder = file.stem.removeprefix(f"{kind}_")
                places = [place for place in (root / folder, root / "images" / folder) if place.is_dir()]
                if not places:
                    raise DataError(f"{root} has {file.name}, but no folder {folder}/ with its images; add it.")
                return file, places[0]
    return None


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
