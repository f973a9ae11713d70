"""Batches from worker processes."""

import pytest
import torch

from slimmable.errors import DataError
from slimmable.tasks.images.decode import FileImages
from slimmable.tasks.images.memory import Normalisation
from slimmable.tasks.images.pipeline import ImagePipeline
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.images.sources import LabelledImages
from slimmable.tasks.images.stream import CentreTransform, RandomTransform, StreamBatches

pytest.importorskip("torchvision")
CPU = torch.device("cpu")
PLAIN = Normalisation(mean=(0.0,) * 3, std=(1 / 255,) * 3)


def random_transform(augmentation, **options):
    chosen = {"padding": 1, "crop_scale": (0.25, 1.0), "color_jitter": 0.0, **options}
    return RandomTransform(side=6, augmentation=augmentation, **chosen)


@pytest.fixture
def streamed(write_folder):
    """Function that streams ten images of 9x7 pixels."""
    root = write_folder({"train": {"cat": 10}}, size=(9, 7))
    files = tuple(sorted(str(path) for path in root.rglob("*.png")))
    source = LabelledImages(images=FileImages(files), labels=torch.arange(10))

    def stream(transform, seed_parts, workers=0):
        return StreamBatches(
            source=source,
            transform=transform,
            batch_size=4,
            normalise=PLAIN,
            workers=workers,
            device=CPU,
            seed_parts=seed_parts,
        )

    return stream


@pytest.mark.parametrize("augmentation", ["none", "shift", "shift-flip", "resized-crop"])
def test_training_images_have_the_wanted_size_and_their_labels_come_shuffled(streamed, augmentation):
    batches = streamed(random_transform(augmentation), (0, 0))
    found = list(batches)
    assert len(found) == len(batches) == 2
    assert all(batch.images.shape == (4, 3, 6, 6) for batch in found)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in found)
    seen = torch.cat([batch.labels for batch in found]).tolist()
    assert len(set(seen)) == 8
    assert seen != sorted(seen)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_do_not_change_the_batches(streamed):
    transform = random_transform("resized-crop", color_jitter=0.4)
    alone, helped = ([*streamed(transform, (1, 2), workers)] for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)


def test_what_an_image_becomes_depends_on_seed_epoch_and_image_alone(streamed):
    def by_label(seed_parts):
        batches = list(streamed(random_transform("resized-crop"), seed_parts))
        return {int(label): image for batch in batches for image, label in zip(*batch, strict=True)}

    torch.manual_seed(0)
    first = by_label((1, 2))
    torch.manual_seed(1)
    again, other_epoch = by_label((1, 2)), by_label((1, 3))
    assert all(torch.equal(first[label], again[label]) for label in first)
    common = first.keys() & other_epoch.keys()
    assert not any(torch.equal(first[label], other_epoch[label]) for label in common)


def test_default_generator_is_left_alone(streamed):
    before = torch.get_rng_state()
    list(streamed(random_transform("resized-crop"), (0, 0)))
    assert torch.equal(before, torch.get_rng_state())


def test_colour_jitter_changes_colours(streamed):
    plain, jittered = (
        next(iter(streamed(random_transform("resized-crop", color_jitter=strength), (0, 0)))) for strength in (0.0, 0.5)
    )
    assert torch.equal(plain.labels, jittered.labels)
    assert not torch.equal(plain.images, jittered.images)


def test_evaluation_keeps_the_order_and_every_image(streamed):
    found = list(streamed(CentreTransform(side=6, shorter=6), None))
    assert torch.cat([batch.labels for batch in found]).tolist() == list(range(10))


@pytest.mark.parametrize("size", [(32, 32), (80, 90)], ids=str)
def test_streamed_evaluation_equals_evaluation_from_memory(write_folder, size):
    root = write_folder({"train": {"cat": 4, "dog": 4}, "test": {"cat": 3, "dog": 2}}, size=size)
    kept, streamed = (
        ImagePipeline(
            ImageDataSettings(
                dataset="folder", root=root, memory_limit_gib=limit, batch_size=2, workers=0, image_size=min(size)
            )
        )
        for limit in (1.0, 0.0)
    )
    for split in ("train", "validation", "test"):
        pairs = zip(kept.plain_batches(split, device=CPU), streamed.plain_batches(split, device=CPU), strict=True)
        for first, second in pairs:
            assert torch.equal(first.images, second.images)
            assert torch.equal(first.labels, second.labels)


def test_damaged_image_is_named(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    source = LabelledImages(images=FileImages((str(bad),)), labels=torch.zeros(1, dtype=torch.long))
    batches = StreamBatches(
        source=source,
        transform=CentreTransform(side=6, shorter=6),
        batch_size=1,
        normalise=PLAIN,
        workers=0,
        device=CPU,
    )
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        list(batches)
