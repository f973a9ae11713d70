"""An image and what is on it, from annotations in COCO's format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DataError, MissingDependencyError

Annotation = dict[str, Any]
"""One object, as COCO's files describe it."""

Target = dict[str, Tensor]
"""Objects of an image, as torchvision's detectors take them."""

POINTS = 17
"""Keypoints of a person in COCO."""

_LEAST = 1e-2
"""Pixels that width and height of a box must exceed: mirrored and resized as float32 it keeps an extent then."""


class Scene(NamedTuple):
    """Bytes ``(3, H, W)`` of an image, and the objects on it."""

    image: Tensor
    target: Target


class Scenes(Protocol):
    """Scenes by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Scene: ...


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What annotations speak of.

    Attributes:
        labels: Number from 1 of every category, by the number it has in the file.
        classes: Names of the categories, in the order of their labels.
        keypoints: Names of an object's keypoints; those of the first category that has some.
    """

    labels: Mapping[int, int]
    classes: tuple[str, ...]
    keypoints: tuple[str, ...]

    @classmethod
    def of(cls, categories: Sequence[Mapping[str, Any]]) -> "Vocabulary":
        """From the ``categories`` of a file in COCO's format."""
        ordered = sorted(categories, key=lambda category: category["id"])
        named = [tuple(map(str, category["keypoints"])) for category in ordered if category.get("keypoints")]
        return cls(
            labels={category["id"]: i + 1 for i, category in enumerate(ordered)},
            classes=tuple(str(category["name"]) for category in ordered),
            keypoints=named[0] if named else (),
        )

    @property
    def mirrored(self) -> tuple[int, ...]:
        """For every keypoint the one that takes its place in the mirror: ``left_eye`` for ``right_eye``.

        Names pair up by ``left`` and ``right`` anywhere in them, or ``l`` and ``r`` as a word: ``L_ear``, ``hip.R``.
        Capitals do not matter. A name without its other half keeps its place.

        >>> Vocabulary(labels={}, classes=(), keypoints=("nose", "left_eye", "right_eye")).mirrored
        (0, 2, 1)
        """
        folded = [name.casefold() for name in self.keypoints]
        places = {name: i for i, name in enumerate(folded)}
        others = [places.get(_SIDE.sub(_other_side, name), i) for i, name in enumerate(folded)]
        return tuple(other if others[other] == i else i for i, other in enumerate(others))


_SIDE = re.compile(r"left|right|(?<![^\W_])[lr](?![^\W_])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _other_side(side: re.Match[str]) -> str:
    return _OTHER[side[0]]


def clipped(annotation: Annotation, size: tuple[float, float]) -> list[float] | None:
    """Left, top, right and bottom of an object within its image; None where next to nothing of it lies there.

    Args:
        annotation: Of the object.
        size: Height and width of the image.

    Raises:
        DataError: The object has no box.

    >>> clipped({"bbox": [-4, 2, 10, 5]}, (20, 20))
    [0.0, 2.0, 6.0, 7.0]
    >>> clipped({"bbox": [19.999, 2, 10, 5]}, (20, 20))
    """
    left, top, across, down = _box(annotation)
    box = [max(left, 0.0), max(top, 0.0), min(left + across, size[1]), min(top + down, size[0])]
    return box if min(box[2] - box[0], box[3] - box[1]) > _LEAST else None


def is_crowd(annotation: Annotation) -> bool:
    """Whether it is of many objects, of which each cannot be told.

    Raises:
        DataError: It says neither 0 nor 1.
    """
    found = annotation.get("iscrowd") or 0
    if found not in (0, 1):
        raise DataError(f"annotation {annotation.get('id')} has iscrowd {found!r}; expected 0 or 1")
    return bool(found)


def _box(annotation: Annotation) -> list[float]:
    box = _numbers(annotation.get("bbox"))
    if box is None or len(box) != 4:
        raise DataError(
            f"annotation {annotation.get('id')} has no bbox of four numbers, but {annotation.get('bbox')!r}; expected "
            "left, top, width and height"
        )
    return box


def target_of(
    annotations: Sequence[Annotation],
    size: tuple[int, int],
    vocabulary: Vocabulary,
    *,
    masks: bool = False,
    keypoints: bool = False,
) -> Target:
    """Objects of an image as tensors.

    Boxes are clipped to the image; what is left with a hundredth of a pixel or less is no object.

    Args:
        annotations: Of the image.
        size: Its height and width.
        vocabulary: Labels of the categories, names of the keypoints.
        masks: Whether masks are wanted.
        keypoints: Whether keypoints are wanted.

    Returns:
        ``boxes`` ``(N, 4)`` as left, top, right, bottom; ``labels`` from 1; ``area``; ``iscrowd``; on demand ``masks``
        ``(N, H, W)`` of 0 and 1 and ``keypoints`` ``(N, K, 3)`` as x, y, visibility.

    Raises:
        DataError: An annotation is malformed, or has a category or keypoints that its file does not list.
    """
    height, width = size
    boxes: list[list[float]] = []
    kept: list[Annotation] = []
    for each in annotations:
        try:
            vocabulary.labels[each["category_id"]]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"annotation {each.get('id')} has category_id {each.get('category_id')!r}; expected one of the file's "
                "categories"
            ) from error
        box = clipped(each, size)
        if box is not None:
            boxes.append(box)
            kept.append(each)
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([vocabulary.labels[each["category_id"]] for each in kept], dtype=torch.int64),
        "area": torch.tensor([_area(each) for each in kept], dtype=torch.float32),
        "iscrowd": torch.tensor([int(is_crowd(each)) for each in kept], dtype=torch.int64),
    }
    if masks:
        drawn = [rasterised(each.get("segmentation"), size, each.get("id")) for each in kept]
        target["masks"] = torch.stack(drawn) if drawn else torch.zeros((0, height, width), dtype=torch.uint8)
    if keypoints:
        points = [_points(each, vocabulary.keypoints) for each in kept]
        target["keypoints"] = torch.tensor(points, dtype=torch.float32).reshape(-1, len(vocabulary.keypoints), 3)
    return target


def _area(annotation: Annotation) -> float:
    area = annotation.get("area")
    if area is None:
        _, _, across, down = _box(annotation)
        return across * down
    numbers = _numbers([area])
    if numbers is None:
        raise DataError(f"annotation {annotation.get('id')} has area {area!r}; expected a number, or none")
    return numbers[0]


def _points(annotation: Annotation, names: Sequence[str]) -> list[float]:
    flat = annotation.get("keypoints") or [0] * 3 * len(names)
    points = _numbers(flat)
    if points is None or len(points) != 3 * len(names):
        found = repr(flat) if points is None else f"of {len(points)} numbers"
        raise DataError(
            f"annotation {annotation.get('id')} has keypoints {found}; expected {3 * len(names)} numbers: x, y and "
            f"visibility of {', '.join(names)}"
        )
    return points


def _numbers(values: Any) -> list[float] | None:
    """A list of finite numbers; None if it is something else."""
    if not isinstance(values, list | tuple):
        return None
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return found if all(map(isfinite, found)) else None


def rasterised(segmentation: Any, size: tuple[int, int], number: object = None) -> Tensor:
    """Mask ``(H, W)`` of polygons, or of run lengths, in COCO's format.

    Raises:
        DataError: It is neither, or of another size.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise MissingDependencyError(
            "masks need faster-coco-eval, which is not installed: pip install 'slimmable[detection]'"
        ) from error
    height, width = size
    try:
        coded: Any = segmentation
        if isinstance(segmentation, list):
            _require_polygons(segmentation)
            coded = mask.merge(mask.frPyObjects(segmentation, height, width))  # pyright: ignore[reportArgumentType]
        else:
            _require_run_lengths(segmentation, size)
            if isinstance(segmentation["counts"], list):
                coded = mask.frPyObjects(segmentation, height, width)
        return torch.from_numpy(np.ascontiguousarray(mask.decode(coded)))
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"annotation {number} has no segmentation that can be read ({error}); expected polygons of three points or "
            f"more, or run lengths of {width} x {height} pixels (width x height), in COCO's format"
        ) from error


def _require_polygons(polygons: list[Any]) -> None:
    """Polygons alone: of other lists of numbers the library makes boxes, or nothing."""
    if not polygons:
        raise ValueError("it is an empty list")
    for polygon in polygons:
        points = _numbers(polygon)
        if points is None:
            raise ValueError(f"a polygon is {str(polygon)[:40]}")
        if len(points) < 6 or len(points) % 2:
            raise ValueError(f"a polygon has {len(points)} numbers")


def _require_run_lengths(coded: Any, size: tuple[int, int]) -> None:
    if not isinstance(coded, dict) or not {"size", "counts"} <= set(coded):
        raise ValueError(f"it is {str(coded)[:40]}")
    height_width, counts = coded["size"], coded["counts"]
    if height_width != [*size]:
        raise ValueError(f"its size is {height_width}, height and width, but the image's is {[*size]}")
    if not isinstance(counts, str | bytes | list):
        raise ValueError(f"its counts are {counts!r}")
    if isinstance(counts, list) and not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("its counts are not whole numbers of pixels")


def mirrored(scene: Scene, swap: Sequence[int]) -> Scene:
    """A scene in the mirror: left is right.

    Args:
        scene: An image and its objects.
        swap: For every keypoint the one that takes its place; see :attr:`Vocabulary.mirrored`.
    """
    width = scene.image.shape[2]
    target = dict(scene.target)
    target["boxes"] = torch.stack(
        [width - target["boxes"][:, 2], target["boxes"][:, 1], width - target["boxes"][:, 0], target["boxes"][:, 3]], 1
    )
    if "masks" in target:
        target["masks"] = target["masks"].flip(2)
    if "keypoints" in target:
        points = target["keypoints"][:, list(swap)].clone()
        seen = points[..., 2] > 0
        points[..., 0] = torch.where(seen, width - points[..., 0], points[..., 0])
        target["keypoints"] = points
    return Scene(scene.image.flip(2), target)
