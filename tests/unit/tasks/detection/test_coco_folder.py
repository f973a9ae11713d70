"""Folders in COCO's format: layouts, splits, and what is wrong with a bad one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from slimmable.errors import DataError, RecipeError
from slimmable.tasks.detection.coco import coco_parts
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


def years(written, root, *, files, folders):
    """A folder with annotations and images of several years, such as ``val2017``."""
    (root / "annotations").mkdir(parents=True)
    source = {part: "train" if part.startswith("train") else "val" for part in (*files, *folders)}
    for part in folders:
        shutil.copytree(written / source[part], root / part)
    for part in files:
        shutil.copy(written / f"annotations/instances_{source[part]}.json", root / f"annotations/instances_{part}.json")
    return root


@pytest.mark.parametrize("folders", [["train2017", "val2017"], ["train2017", "val2014", "val2017"]], ids=" ".join)
def test_of_several_years_the_one_with_images_of_all_parts_is_read(written, tmp_path, folders):
    files = ["train2014", "val2014", "valminusminival2014", "train2017", "val2017"]

    parts = coco_parts(years(written, tmp_path / "coco", files=files, folders=folders), masks=False, keypoints=False)

    assert {part: Path(scenes.source.root).name for part, scenes in parts.items()} == {
        "train": "train2017",
        "val": "val2017",
    }


@pytest.mark.parametrize(
    "parts",
    [["train2014", "train2017", "val2014", "val2017"], ["train2017", "val2014"], ["train", "val", "test2017"]],
    ids=" ".join,
)
def test_parts_of_several_years_are_named_and_none_is_chosen(written, tmp_path, parts):
    root = years(written, tmp_path / "coco", files=parts, folders=parts)

    with pytest.raises(DataError, match=r"expected one ending that all of .* have.* Keep the files of one") as raised:
        _ = pipeline(root).splits

    assert all(f"instances_{part}.json" in str(raised.value) for part in parts)


def test_no_image_is_in_two_parts_or_twice_in_one(written, tmp_path):
    shutil.copytree(written, tmp_path / "linked")
    shutil.rmtree(tmp_path / "linked" / "val")
    (tmp_path / "linked" / "val").symlink_to(tmp_path / "linked" / "train")
    with pytest.raises(DataError, match=r"train/000000\.png is listed twice, in train and in val"):
        _ = pipeline(tmp_path / "linked").splits

    def borrowed(content):
        content["images"][2]["file_name"] = "../train/./000003.png"

    root = changed(written, tmp_path / "borrowed", borrowed, "annotations/instances_val.json")
    with pytest.raises(DataError, match=r"train/000003\.png is listed twice, in train and in val"):
        _ = pipeline(root).splits

    root = changed(written, tmp_path / "twice", lambda content: content["images"][2].update(file_name="000001.png"))
    with pytest.raises(DataError, match=r"000001\.png is listed twice, in train; expected"):
        _ = pipeline(root).splits


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


def test_images_are_learnt_from_if_an_object_can_be_seen_on_them(written, tmp_path):
    def slivers(content):
        content["annotations"] = [
            {**each, "bbox": [31.99999, 0, 0.3, 3]} if each["image_id"] <= 1 else each
            for each in content["annotations"]
        ]
        del content["images"][1]["width"]

    splits = pipeline(changed(written, tmp_path / "slivers", slivers)).splits

    learnt = [scenes[i] for scenes in (splits.train, splits.validation) for i in range(len(scenes))]
    assert len(learnt) == 7, "it is not known how wide the second image is before it is read"
    assert sorted(len(scene.target["boxes"]) > 0 for scene in learnt) == [False] + [True] * 6


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


@pytest.mark.parametrize(
    ("names", "flip", "warns"),
    [
        (["tip", "left_wing", "notch", "right_wing"], True, False),
        (["tip", "wing 1", "notch", "wing 2"], True, True),
        (["tip", "wing 1", "notch", "wing 2"], False, False),
    ],
    ids=str,
)
def test_keypoints_of_which_none_changes_places_are_told_of_once(tmp_path, caplog, names, flip, warns):
    root = write_shapes(tmp_path / "arrows", images=(4, 1), side=32, arrows=True)
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"][0]["keypoints"] = names
        file.write_text(json.dumps(content))

    one = pipeline(root, keypoints=True, flip=flip)
    for epoch in range(2):
        one.train_batches(epoch=epoch, seed=0, device=CPU)

    told = f"no two of the keypoints {', '.join(names)} are each other's left and right"
    assert [record.getMessage().startswith(told) for record in caplog.records] == [True] * warns


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
        (lambda content: content["images"][0].pop("file_name"), "cannot be read as annotations in COCO's format"),
        (lambda content: content.update(categories=[]), "names no categories"),
        (lambda content: content["categories"].pop(), "have other categories than those of train"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2]), "annotation 1 has no bbox of four numbers"),
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


def test_an_image_of_another_size_than_annotated_is_named_when_it_is_read(written, tmp_path):
    def other(content):
        first, second, third, last = content["images"]
        first["width"] = 31
        second.update(width=24, height=48)
        del third["width"]
        last.update(width=None, height=None)

    root = changed(written, tmp_path / "other", other, "annotations/instances_val.json")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: what is stored lies on its side
    Image.new("RGB", (48, 24)).save(root / "val" / "000001.png", exif=turned)

    test = pipeline(root).splits.test

    with pytest.raises(DataError, match=r"image 000000.png in .* is 32 x 32 pixels .* but annotated as 31 x 32"):
        test[0]
    with pytest.raises(DataError, match=r"image 000001.png in .* is 48 x 24 pixels .* but annotated as 24 x 48"):
        test[1]
    assert [tuple(test[i].image.shape) for i in (2, 3)] == [(3, 32, 32)] * 2


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
