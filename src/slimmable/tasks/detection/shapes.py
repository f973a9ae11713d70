"""Shapes on noisy ground, with boxes, outlines and corners: images with objects that nobody has to download.

Every image is a function of its number and the seed, so that a data set is the same wherever it is drawn.
:func:`write_shapes` writes one as a folder in COCO's format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slimmable.record import atomic_path, atomic_write_json
from slimmable.tasks.detection.scenes import Annotation, Scene, Vocabulary, rasterised, target_of

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
KINDS = ("circle", "square", "triangle")
CORNERS = ("tip", "left_wing", "notch", "right_wing")

_ROUND = 24
_OUTLINES: Mapping[str, Sequence[tuple[float, float]]] = MappingProxyType(
    {
        "circle": [(cos(2 * pi * i / _ROUND), sin(2 * pi * i / _ROUND)) for i in range(_ROUND)],
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": [(0.0, -1.0), (0.9, 0.8), (-0.9, 0.8)],
        "arrow": [(0.0, -1.0), (-0.8, 0.9), (0.0, 0.4), (0.8, 0.9)],
    }
)
_TURN = {"circle": 0.0, "square": pi / 8, "triangle": pi / 8, "arrow": pi / 4}
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Images with one to four shapes that do not touch.

    Attributes:
        count: How many images.
        side: Their width and height in pixels.
        part: Images of two parts differ.
        seed: Of the data set.
        arrows: Arrows, with four keypoints, in place of circles, squares and triangles.
        masks: Whether scenes have masks.
    """

    count: int
    side: int
    part: Part
    seed: int
    arrows: bool = False
    masks: bool = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        image, annotations = self.drawn(index)
        size = (self.side, self.side)
        target = target_of(annotations, size, self.vocabulary, masks=self.masks, keypoints=self.arrows)
        return Scene(image, target)

    @property
    def categories(self) -> list[dict[str, Any]]:
        """As a file in COCO's format lists them."""
        if self.arrows:
            skeleton = [[1, 2], [2, 3], [3, 4], [4, 1]]
            return [{"id": 1, "name": "arrow", "keypoints": list(CORNERS), "skeleton": skeleton}]
        return [{"id": i + 1, "name": name} for i, name in enumerate(KINDS)]

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of what is drawn."""
        return Vocabulary.of(self.categories)

    def drawn(self, index: int) -> tuple[Tensor, list[Annotation]]:
        """Bytes ``(3, side, side)`` of one image, and its objects in COCO's format."""
        random = np.random.default_rng((self.seed, PARTS.index(self.part), index, int(self.arrows)))
        ground = random.uniform(40, 215, 3)
        pixels = ground[:, None, None] + random.normal(0, 12, (3, self.side, self.side))
        names = ["arrow"] if self.arrows else KINDS
        boxes: list[np.ndarray] = []
        annotations: list[Annotation] = []
        for _ in range(random.integers(1, 5)):
            name = str(random.choice(names))
            outline = self._placed(name, random, boxes)
            if outline is None:
                continue
            low, high = outline.min(0), outline.max(0)
            boxes.append(np.concatenate([low, high]))
            polygon = [round(float(value), 2) for value in outline.ravel()]
            inside = rasterised([polygon], (self.side, self.side)).numpy().astype(bool)
            colour = (ground + random.choice([-1, 1], 3) * random.uniform(70, 120, 3)) % 256
            pixels[:, inside] = colour[:, None] + random.normal(0, 8, (3, int(inside.sum())))
            annotation: Annotation = {
                "category_id": names.index(name) + 1,
                "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
                "area": float(inside.sum()),
                "iscrowd": 0,
                "segmentation": [polygon],
            }
            if self.arrows:
                points = [[*polygon[2 * i : 2 * i + 2], 2] for i in range(len(CORNERS))]
                flat = [value for point in points for value in point]
                annotation |= {"keypoints": flat, "num_keypoints": len(CORNERS)}
            annotations.append(annotation)
        return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), annotations

    def _placed(self, name: str, random: np.random.Generator, others: Sequence[np.ndarray]) -> np.ndarray | None:
        """An outline ``(N, 2)`` away from all others; None if there was no room."""
        for _ in range(_TRIES):
            radius = self.side * random.uniform(0.1, 0.22)
            angle = random.uniform(-1, 1) * _TURN[name]
            turn = np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
            outline = np.array(_OUTLINES[name]) @ turn * radius
            room = self.side - 2 - (outline.max(0) - outline.min(0))
            outline = outline - outline.min(0) + 1 + random.uniform(0, 1, 2) * room
            box = np.concatenate([outline.min(0) - 2, outline.max(0) + 2])
            if all((box[2:] < other[:2]).any() or (box[:2] > other[2:]).any() for other in others):
                return outline
        return None


def write_shapes(
    folder: str | Path, *, images: tuple[int, int], side: int, seed: int = 0, arrows: bool = False
) -> Path:
    """Write images of shapes in COCO's format: PNG files, and annotations with outlines.

    ::

        folder/annotations/instances_train.json and instances_val.json; person_keypoints_... of arrows
        folder/train/000000.png, ... and folder/val/

    Args:
        folder: A new folder, or one of which the files may be replaced.
        images: How many to learn from, and how many to test on.
        side: Width and height in pixels.
        seed: Of the data set.
        arrows: Arrows with keypoints in place of circles, squares and triangles.

    Returns:
        The folder.
    """
    from PIL import Image

    folder = Path(folder)
    parts: tuple[tuple[Part, int], ...] = (("train", images[0]), ("val", images[1]))
    for part, count in parts:
        shapes = Shapes(count=count, side=side, part=part, seed=seed, arrows=arrows)
        annotations: list[Annotation] = []
        for index in range(count):
            image, objects = shapes.drawn(index)
            with atomic_path(folder / part / f"{index:06d}.png") as temporary:
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
            annotations += [
                {"id": len(annotations) + i + 1, "image_id": index, **each} for i, each in enumerate(objects)
            ]
        listed = [
            {"id": index, "file_name": f"{index:06d}.png", "width": side, "height": side} for index in range(count)
        ]
        named = "person_keypoints" if arrows else "instances"
        atomic_write_json(
            folder / "annotations" / f"{named}_{part}.json",
            {"images": listed, "categories": shapes.categories, "annotations": annotations},
        )
    return folder
