"""From settings to batches of images with objects."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from slimmable.errors import DataError
from slimmable.tasks.detection.batches import SceneBatch, TrainScenes, WholeScenes
from slimmable.tasks.detection.coco import coco_parts, held_out, subset
from slimmable.tasks.detection.scenes import Scene, Scenes, Vocabulary
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.shapes import Part, Shapes
from slimmable.tasks.first_inputs import FirstInputs

_log = logging.getLogger(__name__)

SplitName = Literal["train", "validation", "test"]

_CALIBRATION = 2**31 - 1
"""An epoch that no training reaches."""
SHAPES: dict[SplitName, tuple[Part, int]] = {"train": ("train", 400), "validation": ("val", 50), "test": ("test", 100)}


class SceneSplits(NamedTuple):
    """Scenes to learn from, to choose by, and of the final figures; no image is in two of them."""

    train: Scenes
    validation: Scenes
    test: Scenes
    vocabulary: Vocabulary


class Kept:
    """Scenes that are drawn once and kept."""

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes
        self._kept: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        if index not in self._kept:
            self._kept[index] = self._scenes[index]
        return self._kept[index]


class ScenePipeline:
    """Images with objects, split and fed as settings say; read when a batch, or their vocabulary, is asked for.

    Args:
        settings: Which images.
        masks: Whether masks are wanted.
        keypoints: Whether keypoints are wanted; shapes are arrows then.
    """

    def __init__(self, settings: SceneSettings, *, masks: bool = False, keypoints: bool = False) -> None:
        self.settings = settings
        self.masks = masks
        self.keypoints = keypoints

    @cached_property
    def splits(self) -> SceneSplits:
        """The images, split; annotations are read, images are not.

        Raises:
            DataError: Files are missing or malformed.
        """
        return self._shapes() if self.settings.dataset == "shapes" else self._folder()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, by label from 1."""
        return self.splits.vocabulary.classes

    def train_batches(self, *, epoch: int, seed: int, device: torch.device) -> TrainScenes:
        """Training images in random order."""
        return TrainScenes(
            scenes=self.splits.train,
            batch_size=self.settings.batch_size,
            flip=self.settings.flip,
            swap=self._swap,
            workers=self._workers,
            device=device,
            seed_parts=(seed, epoch),
        )

    def whole_scenes(self, split: SplitName, *, device: torch.device) -> WholeScenes:
        """The images of a split in order."""
        scenes: Scenes = getattr(self.splits, split)
        return WholeScenes(scenes=scenes, batch_size=self.settings.batch_size, workers=self._workers, device=device)

    def calibration_batches(self, *, samples: int, seed: int, device: torch.device) -> FirstInputs:
        """Up to ``samples`` training images as inputs of the network's tensor form."""
        batches = self.train_batches(epoch=_CALIBRATION, seed=seed, device=device)
        return FirstInputs(batches=batches, samples=samples, inputs=self._prepared)

    def _prepared(self, batch: SceneBatch, most: int) -> Tensor:
        """Images as the network's tensor form takes them: resized, normalised, padded to one size."""
        from slimmable.models.detection import image_transform

        return image_transform(self.settings.image_size).eval()(batch.images[:most])[0].tensors

    @cached_property
    def _swap(self) -> tuple[int, ...]:
        """For every keypoint the one that takes its place in the mirror; warns, once, where none has another."""
        names, swap = self.splits.vocabulary.keypoints, self.splits.vocabulary.mirrored
        if self.keypoints and self.settings.flip and len(names) > 1 and swap == tuple(range(len(names))):
            _log.warning(
                "no two of the keypoints %s are each other's left and right, so each keeps its name in mirrored "
                "images; if that is wrong, call them left_... and right_..., or train with flip=False",
                ", ".join(names),
            )
        return swap

    @property
    def _workers(self) -> int:
        return self.settings.workers if self.settings.dataset == "folder" else 0

    def _shapes(self) -> SceneSplits:
        asked = {"train": self.settings.train_images, "test": self.settings.test_images}
        made = {
            split: Shapes(
                count=asked.get(split) or count,
                side=self.settings.size,
                part=part,
                seed=self.settings.split_seed,
                arrows=self.keypoints,
                masks=self.masks,
            )
            for split, (part, count) in SHAPES.items()
        }
        train, validation, test = (Kept(each) for each in made.values())
        return SceneSplits(train, validation, test, made["train"].vocabulary)

    def _folder(self) -> SceneSplits:
        settings, seed = self.settings, self.settings.split_seed
        parts = coco_parts(Path(settings.root or "."), masks=self.masks, keypoints=self.keypoints)
        train = parts["train"].with_objects()
        if "test" in parts and "val" in parts:
            validation, test = parts["val"], parts["test"]
        else:
            train, validation = held_out(train, settings.held_out, seed=seed)
            test = parts.get("test") or parts["val"]
        _require_objects(validation.with_objects(), test.with_objects(), root=settings.root)
        return SceneSplits(
            train=subset(train, settings.train_images, seed=seed),
            validation=validation,
            test=subset(test, settings.test_images, seed=seed),
            vocabulary=train.vocabulary,
        )


def _require_objects(*parts: Sequence[object] | Scenes, root: object) -> None:
    if not all(len(part) for part in parts):
        raise DataError(f"no image held out in {root} has an object; expected some: figures would say nothing.")
