"""Batches from memory."""

import pytest
import torch
import torch.nn.functional as F

from slimmable.tasks.images.memory import MemoryBatches, Normalisation, random_crop
from slimmable.tasks.images.splits import seeded_generator

PLAIN = Normalisation(mean=(0.0,), std=(1 / 255,))


@pytest.fixture
def images():
    return torch.randint(1, 256, (400, 6, 5, 3), dtype=torch.uint8, generator=seeded_generator(0))


def numbered(count: int, **options):
    """Images whose every pixel is their number."""
    labels = torch.arange(count)
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 4, 4, 1).contiguous()
    return MemoryBatches(images=images, labels=labels, batch_size=4, normalise=PLAIN, **options)


@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_shifts_with_zeros_each_equally_likely(images, flip):
    found = random_crop(images, padding=1, flip=flip, generator=seeded_generator(1))

    counts = dict.fromkeys([(dy, dx, side) for dy in range(3) for dx in range(3) for side in range(1 + flip)], 0)
    for image, crop in zip(images, found, strict=True):
        padded = F.pad(image, (0, 0, 1, 1, 1, 1))
        matches = []
        for dy, dx, side in counts:
            window = padded[dy : dy + 6, dx : dx + 5]
            if torch.equal(crop, window.flip(1) if side else window):
                matches.append((dy, dx, side))
        assert len(matches) == 1
        counts[matches[0]] += 1
    expected = 400 / len(counts)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_crop_without_padding_or_flip_changes_nothing(images):
    assert torch.equal(random_crop(images, padding=0, flip=False, generator=seeded_generator(0)), images)


def test_normalisation_equals_its_formula(images):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    found = Normalisation(mean=mean, std=std)(images)

    expected = images.double().permute(0, 3, 1, 2) / 255
    for channel in range(3):
        expected[:, channel] = (expected[:, channel] - mean[channel]) / std[channel]
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_plain_batches_keep_the_order_and_the_incomplete_last_one():
    batches = numbered(10)
    found = list(batches)
    assert len(found) == len(batches) == 3
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("count", [3, 8, 10])
def test_training_batches_are_full_shuffled_and_without_repetition(count):
    batches = numbered(count, seed_parts=(0, 0))
    found = [batch.labels.tolist() for batch in batches]
    assert len(found) == len(batches) == max(1, count // 4)
    assert {len(labels) for labels in found} == {min(4, count)}
    seen = [label for labels in found for label in labels]
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)


def test_images_stay_with_their_labels():
    for batch in numbered(40, seed_parts=(0, 0), padding=1, flip=True):
        assert torch.equal(batch.images[:, 0, 1, 1].round().long(), batch.labels)


def test_batches_depend_on_the_seed_parts_alone_and_leave_the_default_generator_alone():
    before = torch.get_rng_state()
    same = numbered(40, seed_parts=(3, 5), padding=1, flip=True)
    first = [batch.images for batch in same]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert all(torch.equal(a, b.images) for a, b in zip(first, same, strict=True))
    for parts in [(3, 6), (4, 5)]:
        other = [batch.images for batch in numbered(40, seed_parts=parts, padding=1, flip=True)]
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_batches_lie_on_the_device_of_the_images():
    images = torch.empty(10, 4, 4, 3, dtype=torch.uint8, device="meta")
    labels = torch.empty(10, dtype=torch.long, device="meta")
    normalise = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)
    for parts in (None, (0, 0)):
        batches = MemoryBatches(
            images=images, labels=labels, batch_size=4, normalise=normalise, seed_parts=parts, padding=1, flip=True
        )
        for batch in batches:
            assert batch.images.device.type == batch.labels.device.type == "meta"
