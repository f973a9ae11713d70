"""Label maps: painted from masks, or read from files."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DataError
from slimmable.tasks.detection.coco import coco_parts, held_out, subset
from slimmable.tasks.detection.pipeline import SHAPES
from slimmable.tasks.detection.scenes import Scenes, Target
from slimmable.tasks.detection.shapes import Shapes
from slimmable.tasks.images.decode import FileImages
from slimmable.tasks.images.folder import image_files
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.segmentation.settings import LabelMapSettings

IGNORED = 255
"""Label of pixels that count nowhere."""

MOST_CLASSES = IGNORED - 1
"""Classes that a byte tells apart beside the background and :data:`IGNORED`."""

VOC = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Classes of Pascal VOC."""


class LabelMap(NamedTuple):
    """Bytes ``(3, H, W)`` of an image, and a label for every pixel, ``(H, W)``."""

    image: Tensor
    labels: Tensor


class LabelMaps(Protocol):
    """Images with label maps by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> LabelMap: ...


class MapSplits(NamedTuple):
    """Images to learn from, to choose by, and of the final figures; ``classes`` names labels from 1 on."""

    train: LabelMaps
    validation: LabelMaps
    test: LabelMaps
    classes: tuple[str, ...]


def painted(target: Target, size: tuple[int, int]) -> Tensor:
    """Label map of objects with masks: 0 where there is none, 255 on crowds and where two classes meet.

    Args:
        target: Objects, as :func:`slimmable.tasks.detection.scenes.target_of` returns them.
        size: Height and width of the image.
    """
    labels = torch.zeros(size, dtype=torch.uint8)
    for mask, label, crowd in zip(target["masks"], target["labels"].tolist(), target["iscrowd"].tolist(), strict=True):
        inside = mask.bool()
        taken = inside & (labels != 0) & (labels != label)
        labels[inside] = IGNORED if crowd else label
        labels[taken] = IGNORED
    return labels


@dataclass(frozen=True, kw_only=True)
class PaintedMaps:
    """Label maps painted from the masks of scenes."""

    scenes: Scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> LabelMap:
        image, target = self.scenes[index]
        return LabelMap(image, painted(target, (image.shape[1], image.shape[2])))


@dataclass(frozen=True, kw_only=True)
class FileMaps:
    """Images with label maps in files.

    Attributes:
        images: Paths of the images.
        masks: Paths of PNG files, in the same order.
        classes: How many classes there are.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelMap:
        """One image.

        Raises:
            DataError: A file is missing or damaged, or the two do not go together.
        """
        from PIL import Image

        pixels = FileImages(self.images)[index].permute(2, 0, 1).contiguous()
        path = self.masks[index]
        try:
            with Image.open(path) as mask:
                labels = torch.from_numpy(np.array(mask))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"label map {path} cannot be read: {error}") from error
        if labels.shape != pixels.shape[1:] or labels.dtype != torch.uint8:
            raise DataError(
                f"label map {path} is {tuple(labels.shape)} of {labels.dtype}; expected bytes of "
                f"{tuple(pixels.shape[1:])}, one for every pixel of its image: a PNG of one channel or with a palette"
            )
        if ((labels > self.classes) & (labels != IGNORED)).any():
            found = int(labels[labels != IGNORED].max())
            raise DataError(f"label map {path} has label {found}; expected 0 to {self.classes}, or {IGNORED} for none")
        return LabelMap(pixels, labels)

    def take(self, places: list[int]) -> "FileMaps":
        """Some of the images."""
        images, masks = (tuple(files[i] for i in places) for files in (self.images, self.masks))
        return FileMaps(images=images, masks=masks, classes=self.classes)


def load_maps(settings: LabelMapSettings) -> MapSplits:
    """The images that ``settings`` name, split; files are listed but not read.

    Raises:
        DataError: Files are missing or malformed, or there are more than :data:`MOST_CLASSES` classes.
    """
    if settings.dataset == "shapes":
        return _shapes(settings)
    found = _from_folder(settings)
    if len(found.classes) > MOST_CLASSES:
        raise DataError(
            f"{settings.root} has {len(found.classes)} classes; expected at most {MOST_CLASSES}: a label is a byte, "
            f"of which 0 is background and {IGNORED} counts nowhere. Merge or leave out some."
        )
    return found


def _from_folder(settings: LabelMapSettings) -> MapSplits:
    root, seed = Path(settings.root or "."), settings.split_seed
    voc = [place for place in (root, root / "VOCdevkit" / "VOC2012") if (place / "SegmentationClass").is_dir()]
    # VOC has Annotations/ too, which is annotations/ on a disk that does not tell them apart.
    if not voc and ((root / "annotations").is_dir() or list(root.glob("*/_annotations.coco.json"))):
        scenes = coco_parts(root, masks=True, keypoints=False)
        classes = scenes["train"].vocabulary.classes
        train, test = scenes["train"], scenes.get("test") or scenes["val"]
        if "test" in scenes and "val" in scenes:
            validation = scenes["val"]
        else:
            train, validation = held_out(train, settings.held_out, seed=seed)
        chosen = subset(train, settings.train_images, seed=seed), subset(test, settings.test_images, seed=seed)
        return _painted(chosen[0], validation, chosen[1], classes=classes)
    parts, classes = (_voc(voc[0]), VOC) if voc else _plain(root)
    train, test = parts["train"], parts.get("test") or parts["val"]
    if "test" in parts and "val" in parts:
        held = parts["val"]
    else:
        count = min(max(1, round(settings.held_out * len(train))), len(train) - 1)
        if count < 1:
            raise DataError(f"{root} has {len(train)} image to learn from; expected at least 2. Add some.")
        order = torch.randperm(len(train), generator=seeded_generator(seed, 0)).tolist()
        train, held = train.take(sorted(order[count:])), train.take(sorted(order[:count]))
    return MapSplits(
        _drawn(train, settings.train_images, seed), held, _drawn(test, settings.test_images, seed), classes
    )


def _shapes(settings: LabelMapSettings) -> MapSplits:
    asked = {"train": settings.train_images, "test": settings.test_images}
    made = [
        Shapes(count=asked.get(split) or count, side=settings.size, part=part, seed=settings.split_seed, masks=True)
        for split, (part, count) in SHAPES.items()
    ]
    return _painted(*made, classes=made[0].vocabulary.classes)


def _painted(*parts: Scenes, classes: tuple[str, ...]) -> MapSplits:
    train, validation, test = (PaintedMaps(scenes=each) for each in parts)
    return MapSplits(train, validation, test, classes)


def _drawn(maps: FileMaps, count: int | None, seed: int) -> FileMaps:
    if count is None:
        return maps
    if count > len(maps):
        raise DataError(f"{count} images were asked for, but there are {len(maps)}; ask for at most that many.")
    return maps.take(sorted(torch.randperm(len(maps), generator=seeded_generator(seed, 2)).tolist()[:count]))


def _voc(root: Path) -> dict[str, FileMaps]:
    lists = root / "ImageSets" / "Segmentation"
    found: dict[str, FileMaps] = {}
    for part in ("train", "val", "test"):
        if not (lists / f"{part}.txt").is_file():
            continue
        names = (lists / f"{part}.txt").read_text(encoding="utf-8").split()
        pairs = [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]
        if part == "test" and pairs and not any(mask.is_file() for _, mask in pairs):
            continue  # VOC2012's test images are published without label maps
        found[part] = _paired([(str(image), str(mask)) for image, mask in pairs], lists / f"{part}.txt", len(VOC))
    return _complete(found, lists)


def _plain(root: Path) -> tuple[dict[str, FileMaps], tuple[str, ...]]:
    file = root / "classes.txt"
    if not file.is_file():
        raise DataError(
            f"{root} has neither SegmentationClass/, nor annotations/ in COCO's format, nor classes.txt; expected one "
            "of these layouts. classes.txt names the labels from 1 on, one on each line."
        )
    classes = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    found: dict[str, FileMaps] = {}
    for part in ("train", "val", "test"):
        if (root / part / "images").is_dir():
            images = image_files(root / part / "images")
            pairs = [(image, str(root / part / "masks" / f"{Path(image).stem}.png")) for image in images]
            found[part] = _paired(pairs, root / part, len(classes))
    return _complete(found, root), classes


def _paired(pairs: list[tuple[str, str]], source: Path, classes: int) -> FileMaps:
    missing = [each for pair in pairs for each in pair if not Path(each).is_file()]
    if missing or not pairs:
        what = f"{missing[0]} is missing, and {len(missing) - 1} more" if missing else "there are no images"
        raise DataError(f"{source}: {what}; expected images, and a label map of the same name for each.")
    return FileMaps(images=tuple(pair[0] for pair in pairs), masks=tuple(pair[1] for pair in pairs), classes=classes)


def _complete(found: dict[str, FileMaps], place: Path) -> dict[str, FileMaps]:
    if "train" not in found or len(found) < 2:
        raise DataError(f"{place} has {', '.join(found) or 'no part'}; expected train and val (or test).")
    return found
