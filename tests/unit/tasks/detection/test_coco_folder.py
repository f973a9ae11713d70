"""Folders in COCO's format: layouts, splits, and what is wrong with a bad one."""

import json
import shutil

import pytest
import torch

from slimmable.errors import DataError, RecipeError
from slimmable.tasks.detection.pipeline import ScenePipeline
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.shapes import Shapes, write_shapes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), images=(8, 4), side=32)


def pipeline(root, *, masks=False, keypoints=False, **options):
    settings = SceneSettings(dataset="folder", root=root, size=32, batch_size=2, workers=0, **options)
    return ScenePipeline(settings, masks=masks, keypoints=keypoints)


def images(scenes):
    return [bytes(scenes[i].image.numpy()) for i in range(len(scenes))]


def changed(written, root, change, file="annotations/instances_train.json"):
    """A copy of the folder of which one file of annotations is other."""
    shutil.copytree(written, root)
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))
    return root


def test_validation_images_are_held_out_from_those_to_learn_from(written):
    splits = pipeline(written, held_out=0.25).splits

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 2, 4)
    drawn = images(Shapes(count=8, side=32, part="train", seed=0))
    assert sorted(images(splits.train) + images(splits.validation)) == sorted(drawn)
    assert images(splits.test) == images(Shapes(count=4, side=32, part="val", seed=0))
    again = pipeline(written, held_out=0.25).splits
    assert images(again.validation) == images(splits.validation)


def test_numbered_years_images_below_images_and_three_parts(written, tmp_path):
    for part, source in (("train2017", "train"), ("val2017", "val"), ("test2017", "val")):
        shutil.copytree(written / source, tmp_path / "images" / part)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        shutil.copy(written / f"annotations/instances_{source}.json", tmp_path / f"annotations/instances_{part}.json")

    splits = pipeline(tmp_path).splits

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 4, 4)


def test_annotations_beside_their_images(written, tmp_path):
    for part, source in (("train", "train"), ("valid", "val")):
        shutil.copytree(written / source, tmp_path / part)
        shutil.copy(written / f"annotations/instances_{source}.json", tmp_path / part / "_annotations.coco.json")

    splits = pipeline(tmp_path).splits

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7, 1, 4)


def test_images_without_objects_are_evaluated_but_not_learnt_from(written, tmp_path):
    def emptied(content):
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] > 1]
        next(each for each in content["annotations"] if each["image_id"] == 2)["iscrowd"] = 1
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 2 or each["iscrowd"]]

    root = changed(written, tmp_path / "a", emptied)
    other = changed(written, tmp_path / "b", emptied, "annotations/instances_val.json")

    splits = pipeline(root).splits
    assert len(splits.train) + len(splits.validation) == 5
    assert len(pipeline(other).splits.test) == 4


def test_subsets_lie_within_larger_ones(written):
    few, more = (images(pipeline(written, train_images=count, test_images=2).splits.train) for count in (2, 5))

    assert set(few) < set(more)
    assert len(pipeline(written, test_images=2).splits.test) == 2


def test_batches_depend_on_seed_and_epoch_but_not_on_the_number_of_workers(written):
    def epoch(number, *, seed=0, workers=0):
        settings = SceneSettings(dataset="folder", root=written, size=32, batch_size=3, workers=workers)
        batches = ScenePipeline(settings, masks=True).train_batches(epoch=number, seed=seed, device=CPU)
        assert len(batches) == 2
        return [
            (
                torch.stack(batch.images).double().sum((1, 2, 3)).tolist(),
                [each["boxes"].tolist() for each in batch.targets],
            )
            for batch in batches
        ]

    first = epoch(0)

    assert epoch(0) == epoch(0, workers=2) == first
    assert first not in (epoch(1), epoch(0, seed=1))


def test_calibration_images_are_prepared_and_as_many_as_asked(written):
    one = pipeline(written)

    batches = list(one.calibration_batches(samples=3, seed=0, device=CPU))

    assert [tuple(images.shape) for (images,) in batches] == [(2, 3, 32, 32), (1, 3, 32, 32)]
    assert len(one.calibration_batches(samples=3, seed=0, device=CPU)) == 2
    assert abs(float(torch.cat([images for (images,) in batches]).mean())) < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "cannot be read as annotations in COCO's format"),
        (lambda content: content.update(categories=[]), "names no categories"),
        (lambda content: content["categories"].pop(), "have other categories than those of train"),
        (lambda content: content.update(annotations=[]), "there are 0 images with objects to learn from"),
    ],
)
def test_bad_annotations_are_named(written, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        _ = pipeline(changed(written, tmp_path / "bad", change)).splits


def test_figures_need_objects(written, tmp_path):
    root = changed(
        written, tmp_path / "bad", lambda content: content.update(annotations=[]), "annotations/instances_val.json"
    )

    with pytest.raises(DataError, match=r"no image held out in .* has an object"):
        _ = pipeline(root).splits


def test_missing_parts_are_named(written, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        _ = pipeline(tmp_path / "nowhere").splits
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="has annotations of no part; expected train and val"):
        _ = pipeline(tmp_path).splits
    shutil.copy(written / "annotations/instances_train.json", tmp_path / "annotations")
    with pytest.raises(DataError, match=r"has instances_train.json, but no folder train/"):
        _ = pipeline(tmp_path).splits
    with pytest.raises(DataError, match="names no keypoints"):
        _ = pipeline(written, keypoints=True).splits
    with pytest.raises(DataError, match="9 images were asked for, but there are 7"):
        _ = pipeline(written, train_images=9).splits


def test_a_missing_image_is_named_when_it_is_read(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "bad")
    (root / "val" / "000001.png").unlink()
    (root / "val" / "000002.png").write_bytes(b"no image")

    test = pipeline(root).splits.test

    for index in (1, 2):
        with pytest.raises(DataError, match=f"image 00000{index}.png in .* cannot be read"):
            test[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "voc"}, "SceneSettings.dataset is 'voc'; expected one of shapes, folder"),
        ({"dataset": "folder"}, "SceneSettings.root is None"),
        ({"size": 16}, "SceneSettings.size is 16"),
        ({"size": 2000}, "SceneSettings.max_size is 1333; expected at least 2000"),
        ({"batch_size": 0}, "SceneSettings.batch_size is 0"),
        ({"train_images": 0}, "SceneSettings.train_images is 0"),
        ({"held_out": 1.0}, "SceneSettings.held_out is 1.0"),
        ({"split_seed": -1}, "SceneSettings.split_seed is -1"),
        ({"workers": -1}, "SceneSettings.workers is -1"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        SceneSettings(**options)
