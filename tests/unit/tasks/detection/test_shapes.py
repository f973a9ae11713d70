"""Drawn shapes: the same wherever they are drawn, and the same from a folder."""

import json

import numpy as np
import pytest
import torch

from slimmable.tasks.detection.coco import coco_parts
from slimmable.tasks.detection.shapes import CORNERS, KINDS, Shapes, write_shapes


def shapes(count=12, *, part="train", seed=0, arrows=False, side=64):
    return Shapes(count=count, side=side, part=part, seed=seed, arrows=arrows, masks=True)


@pytest.mark.parametrize("arrows", [False, True], ids=["shapes", "arrows"])
def test_a_written_folder_holds_what_is_drawn(tmp_path, arrows):
    write_shapes(tmp_path, images=(5, 3), side=64, seed=7, arrows=arrows)

    parts = coco_parts(tmp_path, masks=True, keypoints=arrows)

    for name, count in (("train", 5), ("val", 3)):
        drawn = shapes(count, part=name, seed=7, arrows=arrows)
        assert len(parts[name]) == count
        assert parts[name].vocabulary == drawn.vocabulary
        for i in range(count):
            (image, found), (pixels, expected) = parts[name][i], drawn[i]
            assert torch.equal(image, pixels)
            assert set(found) == set(expected)
            assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_images_depend_on_seed_part_and_number_alone():
    some = shapes()

    assert torch.equal(some[3].image, shapes(4)[3].image)
    others = [shapes()[4], shapes(seed=1)[3], shapes(part="val")[3]]
    assert not any(torch.equal(some[3].image, other.image) for other in others)


@pytest.mark.parametrize("arrows", [False, True], ids=["shapes", "arrows"])
def test_masks_fill_their_boxes_and_touch_no_other(arrows):
    seen = set()
    for image, target in map(shapes(arrows=arrows).__getitem__, range(12)):
        assert image.shape == (3, 64, 64)
        assert 1 <= len(target["boxes"]) <= 4
        assert target["masks"].sum(0).max() <= 1
        seen |= set(target["labels"].tolist())
        for box, mask, area in zip(target["boxes"], target["masks"], target["area"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (around - box).abs().max() <= 1.5
            assert area == mask.sum()
    assert seen == {1} if arrows else seen == {1, 2, 3}


def test_keypoints_are_corners_of_the_box_and_of_the_outline():
    for _, target in map(shapes(arrows=True).__getitem__, range(6)):
        points = target["keypoints"]
        assert points.shape[1:] == (len(CORNERS), 3)
        assert (points[..., 2] == 2).all()
        outer = points[:, [0, 1, 3], :2]
        left_top, right_bottom = outer.min(1).values, outer.max(1).values
        assert ((left_top - target["boxes"][:, :2]).abs() < 0.02).all()
        assert ((right_bottom - target["boxes"][:, 2:]).abs() < 0.02).all()


def test_the_files_are_of_cocos_form(tmp_path):
    write_shapes(tmp_path, images=(2, 1), side=48)

    found = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())

    assert [category["name"] for category in found["categories"]] == list(KINDS)
    assert [image["file_name"] for image in found["images"]] == ["000000.png", "000001.png"]
    assert [each["id"] for each in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    for each in found["annotations"]:
        assert {"image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"} <= set(each)
        outline = np.array(each["segmentation"][0]).reshape(-1, 2)
        low, size = outline.min(0), np.ptp(outline, axis=0)
        assert np.allclose([*low, *size], each["bbox"], atol=0.02)
