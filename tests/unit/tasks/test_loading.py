"""Errors of data reach the user as they were raised, whoever reads."""

from pathlib import Path

import pytest
import torch

import slimmable.tasks
from slimmable.errors import DataError
from slimmable.tasks.detection.batches import TrainScenes, WholeScenes
from slimmable.tasks.images.memory import Normalisation
from slimmable.tasks.images.sources import LabelledImages
from slimmable.tasks.images.stream import CentreTransform, StreamBatches
from slimmable.tasks.loading import loaded
from slimmable.tasks.patches.batches import PatchBatches
from slimmable.tasks.segmentation.batches import TrainMaps

MESSAGE = "image 7.jpg cannot be read; remove it"
COMMON = {"batch_size": 2, "device": torch.device("cpu")}
TRAIN = {**COMMON, "seed_parts": (0, 0)}

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Damaged:
    """Four samples, none of which can be read."""

    def __init__(self, error=None):
        self.error = error or DataError(MESSAGE)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise self.error


BATCHES = {
    "scenes": lambda workers: TrainScenes(scenes=Damaged(), flip=False, swap=(), workers=workers, **TRAIN),
    "whole scenes": lambda workers: WholeScenes(scenes=Damaged(), workers=workers, **COMMON),
    "maps": lambda workers: TrainMaps(
        maps=Damaged(), size=8, crop=8, scales=(1.0, 1.0), flip=False, workers=workers, **TRAIN
    ),
    "patches": lambda workers: PatchBatches(pairs=Damaged(), patch=4, repeats=1, workers=workers, **TRAIN),
    "images": lambda workers: StreamBatches(
        source=LabelledImages(images=Damaged(), labels=torch.zeros(4)),
        transform=CentreTransform(side=4, shorter=4),
        normalise=Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3),
        workers=workers,
        **TRAIN,
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", BATCHES)
def test_an_error_says_what_it_said_in_the_worker(name, workers):
    with pytest.raises(DataError) as caught:
        list(BATCHES[name](workers))

    assert str(caught.value) == MESSAGE


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_before_the_damaged_one_are_given(workers):
    class Half(Damaged):
        def __getitem__(self, index):
            return index if index < 3 else super().__getitem__(index)

    batches = loaded(Half(), order=[2, 0, 1, 3], batch_size=2, workers=workers, generator=None)

    assert next(batches).tolist() == [2, 0]
    with pytest.raises(DataError):
        next(batches)


def test_mistakes_keep_the_traceback_of_the_worker():
    samples = Damaged(ZeroDivisionError("a mistake"))

    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        list(loaded(samples, order=range(4), batch_size=2, workers=1, generator=None))


def test_nothing_else_in_the_tasks_starts_workers():
    found = [
        path.name for path in Path(slimmable.tasks.__file__).parent.rglob("*.py") if "DataLoader" in path.read_text()
    ]

    assert found == ["loading.py"]
