"""Layouts of image folders, and what is said about those that do not fit."""

import pytest
import torch

from slimmable.errors import DataError
from slimmable.tasks.images.folder import scan_folder
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.images.sources import load_splits

TWO = {"cat": 4, "dog": 3}


def parents(split):
    return {file.replace("\\", "/").split("/")[-3] for file in split.images.files}


def test_classes_and_files_come_in_alphabetical_order(write_folder):
    train, validation, test = scan_folder(write_folder({"train": {"dog": 3, "cat": 4}, "test": TWO}))
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert list(train.files) == sorted(train.files)
    assert validation is None
    assert len(test.files) == 7


@pytest.mark.parametrize(
    ("given", "validation", "test"),
    [
        (("train", "test"), {"train"}, {"test"}),
        (("train", "val"), {"train"}, {"val"}),
        (("train", "val", "test"), {"val"}, {"test"}),
    ],
    ids=str,
)
def test_images_of_the_final_figure_choose_nothing(write_folder, given, validation, test):
    root = write_folder(dict.fromkeys(given, TWO))

    splits = load_splits(ImageDataSettings(dataset="folder", root=root, validation_fraction=0.3))

    assert parents(splits.train) == {"train"}
    assert parents(splits.validation) == validation
    assert parents(splits.test) == test
    files = [set(split.images.files) for split in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, files)) == len(set.union(*files))


def test_held_out_images_keep_their_labels(write_folder):
    root = write_folder({"train": {"cat": 10, "dog": 20}, "test": TWO})
    splits = load_splits(ImageDataSettings(dataset="folder", root=root))
    for split in (splits.train, splits.validation):
        named = [0 if "cat" in file else 1 for file in split.images.files]
        assert split.labels.tolist() == named
    assert torch.bincount(splits.validation.labels).tolist() == [1, 2]


def test_files_that_are_no_images_and_hidden_folders_are_passed_over(write_folder):
    root = write_folder({"train": TWO, "test": TWO})
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / ".cache").mkdir()
    assert len(scan_folder(root)[0].files) == 7


def test_images_may_lie_deeper_within_their_class(write_folder):
    root = write_folder({"train": TWO, "test": TWO})
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "cat" / "000.png").rename(root / "train" / "cat" / "more" / "000.png")
    assert scan_folder(root)[0].labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"test": TWO}, r"no train/ folder.*Found: test"),
        ({"train": TWO}, "neither test/ nor val/"),
        ({"train": {"cat": 2, "dog": 0}, "test": TWO}, r"train.dog holds no image"),
        ({"train": {"cat": 2}, "test": TWO}, r"class 'dog' has a folder in .*test and none in .*train"),
        ({"train": TWO, "val": {"dog": 2}, "test": TWO}, r"class 'cat' has a folder in .*train and none in .*val"),
        ({"train": {"cat": 1, "dog": 3}, "test": TWO}, "class 'cat' has 1 training images"),
    ],
    ids=["no train", "no test", "empty class", "class not in train", "class not in val", "class too small"],
)
def test_layouts_that_do_not_fit_are_named_with_a_cure(write_folder, counts, message):
    root = write_folder(counts)
    with pytest.raises(DataError, match=message):
        load_splits(ImageDataSettings(dataset="folder", root=root))


def test_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent is no folder; expected one that holds train/"):
        load_splits(ImageDataSettings(dataset="folder", root=tmp_path / "absent"))


def test_split_without_class_folders_is_named(write_folder, tmp_path):
    root = write_folder({"test": TWO})
    (root / "train").mkdir()
    with pytest.raises(DataError, match=r"train holds no class folders"):
        scan_folder(root)
