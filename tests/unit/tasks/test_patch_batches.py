"""Batches are a function of seed and epoch, whoever cuts them."""

import pytest
import torch
from PIL import Image

from slimmable.errors import DataError
from slimmable.tasks import PatchDataSettings
from slimmable.tasks.patches.pipeline import PatchPipeline

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    """Images of one shade each, by which patches tell where they come from; one of them is not flat."""
    for split, count in (("train", 5), ("val", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        for index in range(count):
            Image.new("RGB", (40 + index, 30), (10 * index + 5,) * 3).save(tmp_path / split / f"{index}.png")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, 40, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "train" / "0.png")
    return tmp_path


def pipeline(root, **options):
    given = {"patch": 8, "batch_size": 4, "repeats": 3, "workers": 0, **options}
    return PatchPipeline(PatchDataSettings(dataset="folder", root=root, **given), scale=2, least_side=15)


def train(root, *, epoch=0, seed=0, **options):
    return pipeline(root, **options).train_batches(epoch=epoch, seed=seed, device=CPU)


def stacked(batches):
    listed = list(batches)
    return tuple(torch.cat([batch[part] for batch in listed]) for part in range(2))


def test_batches_depend_on_seed_and_epoch_alone(root):
    first, again = stacked(train(root)), stacked(train(root))

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in ({"epoch": 1}, {"seed": 1}):
        assert not torch.equal(first[0], stacked(train(root, **other))[0])
    batches = train(root)
    assert torch.equal(stacked(batches)[0], stacked(batches)[0]), "a second pass is the first one"


@pytest.mark.parametrize("workers", [0, 1])
def test_it_does_not_matter_whether_images_are_kept_or_decoded_again_and_by_whom(root, workers):
    kept, streamed = train(root), train(root, memory_limit_gib=0.0, workers=workers)

    assert type(kept.pairs) is not type(streamed.pairs)
    assert all(torch.equal(a, b) for a, b in zip(stacked(kept), stacked(streamed), strict=True))


def test_every_image_has_its_turn(root):
    batches = train(root, batch_size=5)
    low, high = stacked(batches)

    assert (len(batches), len(low)) == (3, 15)
    assert (low.shape[1:], high.shape[1:]) == ((3, 8, 8), (3, 16, 16))
    assert low.min() >= 0
    assert high.max() <= 1
    for turn in low.split(5):
        flat = [round(patch.mean().item() * 255) for patch in turn if patch.max() == patch.min()]
        assert sorted(flat) == [15, 25, 35, 45]


@pytest.mark.parametrize(("batch_size", "batches", "samples"), [(4, 3, 12), (15, 1, 15), (16, 1, 15)])
def test_an_incomplete_last_batch_is_left_out_unless_it_is_the_only_one(root, batch_size, batches, samples):
    found = train(root, batch_size=batch_size)

    assert len(found) == len(list(found)) == batches
    assert len(stacked(found)[0]) == samples


def test_whole_images_come_one_at_a_time_in_order(root):
    whole = pipeline(root).whole_images("test", device=CPU)

    assert [batch.high.shape for batch in whole] == [(1, 3, 30, 40), (1, 3, 30, 40)]
    assert [round(batch.low.mean().item() * 255) for batch in whole] == [5, 15]
    assert len(whole) == 2


def test_calibration_patches_are_as_many_as_asked_for_and_not_those_of_training(root):
    found = list(pipeline(root).calibration_batches(samples=6, seed=0, device=CPU))

    assert [len(low) for (low,) in found] == [4, 2]
    assert not torch.equal(found[0][0], next(iter(train(root))).low)


def test_images_smaller_than_a_patch_are_named(root):
    with pytest.raises(DataError, match=r"train/\d.png is 4\dx30 pixels; expected at least 32 a side at scale 2"):
        train(root, patch=16)


def test_images_too_small_to_be_compared_are_named(root):
    Image.new("RGB", (40, 15)).save(root / "test" / "9.png")
    with pytest.raises(DataError, match=r"9.png is 40x15 pixels; expected at least 15 a side"):
        pipeline(root).whole_images("test", device=CPU)


def test_a_file_that_is_no_image_is_named(root):
    (root / "test" / "9.png").write_text("no image")
    with pytest.raises(DataError, match=r"9.png cannot be read"):
        pipeline(root).whole_images("test", device=CPU)
