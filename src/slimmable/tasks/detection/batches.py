"""Batches of images with objects: mirrored at random in training, as they are in evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimmable.tasks.detection.scenes import Scene, Scenes, Target, mirrored
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.loading import loaded


class SceneBatch(NamedTuple):
    """Images ``(3, H, W)`` of values between 0 and 1, of any sizes, and the objects on each."""

    images: list[Tensor]
    targets: list[Target]


def batch_of(scenes: Sequence[Scene], device: torch.device) -> SceneBatch:
    """A batch on ``device``."""
    return SceneBatch(
        [scene.image.to(device).to(torch.float32).div_(255) for scene in scenes],
        [{name: value.to(device) for name, value in scene.target.items()} for scene in scenes],
    )


def without_crowds(scene: Scene) -> Scene:
    """A scene with single objects alone: what training may learn from."""
    single = scene.target["iscrowd"] == 0
    return Scene(scene.image, {name: value[single] for name, value in scene.target.items()})


@dataclass(frozen=True, kw_only=True)
class TrainScenes:
    """Images in random order, half of them mirrored.

    Iterating twice gives the same batches. They depend on ``seed_parts`` alone, not on the number of workers.

    Attributes:
        scenes: The images.
        batch_size: Images in a batch; an incomplete last batch is left out.
        flip: Whether to mirror.
        swap: For every keypoint the one that takes its place in the mirror.
        workers: Processes that read; 0 reads in this one.
        device: Where batches go.
        seed_parts: Numbers that everything depends on.
    """

    scenes: Scenes
    batch_size: int
    flip: bool
    swap: tuple[int, ...]
    workers: int
    device: torch.device
    seed_parts: tuple[int, ...]

    def __len__(self) -> int:
        return max(1, len(self.scenes) // self.batch_size)

    def __iter__(self) -> Iterator[SceneBatch]:
        generator = seeded_generator(*self.seed_parts)
        order = torch.randperm(len(self.scenes), generator=generator)[: len(self) * self.batch_size].tolist()
        flips = (torch.rand(len(order), generator=generator) < 0.5).tolist() if self.flip else [False] * len(order)
        chosen = _Chosen(self.scenes, order, flips, self.swap)
        yield from _batches(chosen, self.batch_size, self.workers, self.device, generator=generator)


@dataclass(frozen=True, kw_only=True)
class WholeScenes:
    """All images as they are, in order, crowds included.

    Attributes:
        scenes: The images.
        batch_size: Images in a batch; the last one may have fewer.
        workers: Processes that read; 0 reads in this one.
        device: Where batches go.
    """

    scenes: Scenes
    batch_size: int
    workers: int
    device: torch.device

    def __len__(self) -> int:
        return (len(self.scenes) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[SceneBatch]:
        chosen = _Chosen(self.scenes, list(range(len(self.scenes))), None, ())
        yield from _batches(chosen, self.batch_size, self.workers, self.device, generator=None)


class _Chosen(Dataset[Scene]):
    def __init__(self, scenes: Scenes, order: list[int], flips: list[bool] | None, swap: tuple[int, ...]) -> None:
        self.scenes, self.order, self.flips, self.swap = scenes, order, flips, swap

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[self.order[index]]
        if self.flips is None:
            return scene
        scene = without_crowds(scene)
        return mirrored(scene, self.swap) if self.flips[index] else scene


def _batches(
    chosen: _Chosen, batch_size: int, workers: int, device: torch.device, *, generator: torch.Generator | None
) -> Iterator[SceneBatch]:
    for scenes in loaded(
        chosen,
        order=range(len(chosen)),
        batch_size=batch_size,
        workers=workers,
        generator=generator,
        collate=list,
    ):
        yield batch_of(scenes, device)
