"""Where pairs come from, and that small and large images go together."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.tasks import PatchDataSettings
from slimmable.tasks.patches.batches import ORIENTATIONS, cut, oriented
from slimmable.tasks.patches.pairs import FilePairs, Pair
from slimmable.tasks.patches.resample import bicubic, scale_down
from slimmable.tasks.patches.sources import PHOTOGRAPHS, load_pairs


def noise(height, width, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def write(path, height=24, width=20, *, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, seed=seed).permute(1, 2, 0).numpy()).save(path)
    return str(path)


def folder(root, **counts):
    """A folder of folders of images, no two of which are alike."""
    seed = 0
    for name, count in counts.items():
        for index in range(count):
            write(root / name / f"{index:04}.png", seed=seed)
            seed += 1
    return PatchDataSettings(dataset="folder", root=root)


def names(pairs):
    return {str(Path(file).relative_to(Path(file).parents[1])) for file in pairs.high}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_turning_and_mirroring_commute_with_scaling_down(scale):
    image = noise(24, 36).double()
    for orientation in range(ORIENTATIONS):
        turned = oriented(image, orientation)[None]
        size = (turned.shape[2] // scale, turned.shape[3] // scale)

        found = bicubic(turned, size)[0]

        expected = oriented(bicubic(image[None], (24 // scale, 36 // scale))[0], orientation)
        torch.testing.assert_close(found, expected)


def test_orientations_are_the_eight_of_a_square():
    image = torch.arange(9).view(1, 3, 3)
    turned = [torch.rot90(each, times, (1, 2)) for each in (image, image.flip(2)) for times in range(4)]

    found = [oriented(image, orientation) for orientation in range(ORIENTATIONS)]

    assert {tuple(each.flatten().tolist()) for each in found} == {tuple(each.flatten().tolist()) for each in turned}
    assert torch.equal(found[0], image)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scaling_down_is_pillow_s_bicubic(scale):
    image = noise(48, 36)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        (36 // scale, 48 // scale), Image.Resampling.BICUBIC
    )

    found = scale_down(image, scale).permute(1, 2, 0).numpy().astype(int)

    # Pillow rounds and clips after each of its two passes.
    apart = np.abs(found - np.array(expected).astype(int))
    assert apart.max() <= 2
    assert apart.mean() < 0.2


@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_both_patches_show_the_same_place_the_same_way_round(orientation):
    large = noise(60, 80)
    pair = Pair(scale_down(large, 2), large)

    for corner in product((0.0, 0.4, 0.999), repeat=2):
        found = cut(pair, patch=16, corner=corner, orientation=orientation)

        assert (found.low.shape, found.high.shape) == ((3, 16, 16), (3, 32, 32))
        # Far enough from the border, the large patch scaled down is the small one.
        again = scale_down(found.high, 2)[:, 3:-3, 3:-3].int()
        assert (again - found.low[:, 3:-3, 3:-3].int()).abs().max() <= 1


def test_every_place_can_be_cut():
    large = torch.arange(8 * 12).view(1, 8, 12)
    pair = Pair(large[:, ::2, ::2], large)
    places = {
        cut(pair, patch=2, corner=(top / 30, left / 30), orientation=0).low[0, 0, 0].item()
        for top in range(30)
        for left in range(30)
    }
    assert places == {large[0, 2 * top, 2 * left].item() for top in range(3) for left in range(5)}


def test_what_does_not_divide_is_cut_off_on_the_right_and_below(tmp_path):
    file = write(tmp_path / "odd.png", 23, 19)

    pair = FilePairs(high=(file,), low=None, scale=4)[0]

    assert pair.low.shape == (3, 5, 4)
    assert torch.equal(pair.high, noise(23, 19)[:, :20, :16])


def test_packaged_photographs_are_there_and_none_serves_twice():
    splits = load_pairs(PatchDataSettings(), scale=2)

    everything = [*splits.train.high, *splits.validation.high, *splits.test.high]
    assert len(set(everything)) == len(everything) == sum(map(len, PHOTOGRAPHS.values()))
    pictures = [Image.open(file).convert("RGB").resize((8, 8)).tobytes() for file in everything]
    assert len(set(pictures)) == len(pictures)
    scenes = {part: {Path(file).stem.partition("_")[0] for file in files} for part, files in PHOTOGRAPHS.items()}
    assert not scenes["train"] & (scenes["validation"] | scenes["test"])
    assert not scenes["validation"] & scenes["test"]
    assert min(min(size) for size in splits.train.sizes()) >= 96


def test_a_missing_package_of_photographs_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="photographs come with scikit-image: pip install"):
        load_pairs(PatchDataSettings(), scale=2)


def test_a_plain_folder_is_split_into_three(tmp_path):
    settings = folder(tmp_path, holiday=8, home=4)
    first, again = load_pairs(settings, scale=2), load_pairs(settings, scale=2)

    parts = [names(part) for part in (first.train, first.validation, first.test)]
    assert [len(part) for part in parts] == [10, 1, 1]
    assert len(set.union(*parts)) == 12
    assert first == again
    other = PatchDataSettings(dataset="folder", root=tmp_path, split_seed=1, held_out=0.25)
    shares = load_pairs(other, scale=2)
    assert [len(part) for part in (shares.train, shares.validation, shares.test)] == [7, 2, 3]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 4, "test": 2}, (3, "train", 1, "test", 2)),
        ({"train": 4, "val": 2}, (3, "train", 1, "val", 2)),
        ({"train": 4, "val": 3, "test": 2}, (4, "val", 3, "test", 2)),
    ],
    ids=str,
)
def test_folders_of_splits(tmp_path, counts, expected):
    splits = load_pairs(folder(tmp_path, **counts), scale=2)

    train, where, validation, tested, test = expected
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [train, validation, test]
    assert {Path(file).parent.name for file in splits.validation.high} == {where}
    assert {Path(file).parent.name for file in splits.test.high} == {tested}
    assert not names(splits.train) & names(splits.validation)


def div2k(root, *, small=True):
    settings = folder(root, DIV2K_train_HR=4, DIV2K_valid_HR=2)
    if small:
        for part, count in (("train", 4), ("valid", 2)):
            for index in range(count):
                write(root / f"DIV2K_{part}_LR_bicubic" / "X2" / f"{index:04}x2.png", 12, 10, seed=100 + index)
    return settings


def test_small_images_on_disk_are_used_where_they_are_there(tmp_path):
    settings = div2k(tmp_path)

    on_disk, computed = load_pairs(settings, scale=2), load_pairs(settings, scale=4)

    assert [len(part) for part in (on_disk.train, on_disk.validation, on_disk.test)] == [3, 1, 2]
    assert torch.equal(on_disk.test[1].low, noise(12, 10, seed=101))
    assert torch.equal(computed.test[1].low, scale_down(computed.test[1].high, 4))
    number = int(Path(on_disk.validation.high[0]).stem)
    assert torch.equal(on_disk.validation[0].low, noise(12, 10, seed=100 + number))


def test_subsets(tmp_path):
    root = folder(tmp_path, train=6, test=5).root
    settings = PatchDataSettings(dataset="folder", root=root, train_images=2, test_images=3)

    splits = load_pairs(settings, scale=2)

    assert (len(splits.train), len(splits.test)) == (2, 3)


@pytest.mark.parametrize(
    ("make", "spoil", "message"),
    [
        (lambda root: PatchDataSettings(dataset="folder", root=root / "x"), None, r"is no folder; expected one with"),
        (lambda root: PatchDataSettings(dataset="folder", root=root), None, "holds no image; add images"),
        (lambda root: folder(root, a=2), None, "holds 2 images; expected at least 3"),
        (lambda root: folder(root, train=2), None, "has train/ but neither test/ nor val/"),
        (lambda root: folder(root, train=1, test=1), None, "a single image to learn from"),
        (lambda root: folder(root, DIV2K_train_HR=2), None, "has no DIV2K_valid_HR/"),
        (lambda root: folder(root, DIV2K_valid_HR=2), None, "has no DIV2K_train_HR/"),
        (div2k, "DIV2K_train_LR_bicubic/X2/0001x2.png", r"0001x2.png is missing, and 0 more; .*Unpack all"),
    ],
)
def test_bad_folders_are_one_clear_error(tmp_path, make, spoil, message):
    settings = make(tmp_path)
    if spoil:
        (tmp_path / spoil).unlink()
    with pytest.raises(DataError, match=message):
        load_pairs(settings, scale=2)


def test_too_many_images_cannot_be_asked_for(tmp_path):
    root = folder(tmp_path, train=3, test=1).root
    with pytest.raises(DataError, match="5 images were asked for, but there are 1"):
        load_pairs(PatchDataSettings(dataset="folder", root=root, test_images=5), scale=2)


def test_a_small_image_of_another_size_is_refused(tmp_path):
    high, low = write(tmp_path / "high.png", 24, 20), write(tmp_path / "low.png", 12, 12)
    with pytest.raises(DataError, match=r"low.png is 12x12 pixels; expected 10x12, for .*high.png"):
        FilePairs(high=(high,), low=(low,), scale=2)[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "div2k"}, "dataset is 'div2k'; expected one of photographs, folder"),
        ({"dataset": "folder"}, "root is None"),
        ({"patch": 0}, "patch is 0; expected at least 1"),
        ({"repeats": 0}, "repeats is 0"),
        ({"held_out": 1.0}, "held_out is 1.0; expected above 0 and below 1"),
        ({"test_images": 0}, "test_images is 0; expected at least 1, or None"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"memory_limit_gib": -1}, "memory_limit_gib is -1"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(RecipeError, match=message):
        PatchDataSettings(**wrong)
