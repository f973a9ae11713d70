"""From annotations to tensors, and into the mirror."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from slimmable.errors import DataError
from slimmable.tasks.detection.batches import without_crowds
from slimmable.tasks.detection.scenes import Scene, Vocabulary, mirrored, rasterised, target_of
from slimmable.tasks.detection.shapes import Shapes

PEOPLE = [{"id": 7, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}, {"id": 3, "name": "dog"}]
DOG = {"bbox": [1, 2, 3, 4], "category_id": 3}


def test_labels_are_numbers_from_1_in_the_order_of_the_files_own():
    found = Vocabulary.of(PEOPLE)

    assert (found.labels, found.classes, found.keypoints) == (
        {3: 1, 7: 2},
        ("dog", "person"),
        tuple(PEOPLE[0]["keypoints"]),
    )
    assert found.mirrored == (0, 2, 1)


def vocabulary(*keypoints):
    return Vocabulary(labels={}, classes=(), keypoints=keypoints)


@pytest.mark.parametrize(
    ("names", "swap"),
    [
        (("Left Eye", "Right Eye", "L_ear", "R_ear"), (1, 0, 3, 2)),
        (("nose", "leftHip", "RIGHTHIP"), (0, 2, 1)),
        (("ear.L", "ear.R", "r-knee", "l-knee"), (1, 0, 3, 2)),
        (("bright", "ball", "roof", "left_eye"), (0, 1, 2, 3)),
        (("loof", "roof", "all", "arr"), (0, 1, 2, 3)),
        (("Left_Eye", "left_eye", "right_eye"), (0, 2, 1)),
    ],
    ids=str,
)
def test_left_and_right_are_told_by_their_names(names, swap):
    assert vocabulary(*names).mirrored == swap


@given(st.lists(st.sampled_from(["left", "Left", "RIGHT", "right", "l", "R", "_", " ", "eye", "İ"]), max_size=6))
def test_what_changes_places_changes_back(words):
    names = [*words, *("".join(pair) for pair in pairwise(words))]
    swap = vocabulary(*names).mirrored

    assert [swap[other] for other in swap] == list(range(len(names)))


def test_boxes_are_clipped_and_empty_ones_dropped():
    annotations = [
        {"bbox": [-4, 2, 10, 5], "category_id": 3, "area": 50},
        {"bbox": [30, 2, 10, 5], "category_id": 3},
        {"bbox": [5, 5, 0, 5], "category_id": 3},
        {"bbox": [1, 1, 2, 3], "category_id": 7, "iscrowd": 1, "keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0]},
    ]

    found = target_of(annotations, (20, 20), Vocabulary.of(PEOPLE), keypoints=True)

    assert found["boxes"].tolist() == [[0, 2, 6, 7], [1, 1, 3, 4]]
    assert found["labels"].tolist() == [1, 2]
    assert found["area"].tolist() == [50, 6]
    assert found["iscrowd"].tolist() == [0, 1]
    assert found["keypoints"].tolist() == [[[0, 0, 0]] * 3, [[1, 2, 2], [3, 4, 1], [0, 0, 0]]]


@given(
    width=st.integers(1, 10_000),
    inside=st.floats(0, 1),
    across=st.floats(0, 0.1),
    scale=st.sampled_from([1 / 16, 1 / 3, 1.0, 3.7]),
)
@example(width=640, inside=639.99999 / 640, across=0.3, scale=1.0)
def test_boxes_that_are_kept_have_an_extent_in_the_mirror_and_at_any_size(width, inside, across, scale):
    annotation = {"bbox": [inside * width, 0, across, 3], "category_id": 3}
    target = target_of([annotation], (8, width), Vocabulary.of(PEOPLE))

    left, _, right, _ = (
        mirrored(Scene(torch.zeros((3, 8, 1), dtype=torch.uint8).expand(3, 8, width), target), ())
        .target["boxes"]
        .mul(scale)
        .unbind(1)
    )

    assert (right > left).all()
    assert len(left) == (min(inside * width + across, width) - inside * width > 0.01)


def test_an_image_without_objects_has_empty_tensors():
    found = target_of([], (5, 6), Vocabulary.of(PEOPLE), masks=True, keypoints=True)

    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {
        "boxes": (0, 4),
        "labels": (0,),
        "area": (0,),
        "iscrowd": (0,),
        "masks": (0, 5, 6),
        "keypoints": (0, 3, 3),
    }


def test_polygons_and_run_lengths_are_the_same_mask():
    square = rasterised([[2, 1, 6, 1, 6, 4, 2, 4]], (8, 10))
    flat = square.numpy().ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()

    assert square.sum() == 12
    assert square[1:4, 2:6].all()
    assert torch.equal(rasterised({"counts": counts, "size": [8, 10]}, (8, 10)), square)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "it is None"),
        ({"counts": [70, 10]}, "it is {'counts'"),
        ([], "it is an empty list"),
        ([[]], "a polygon has 0 numbers"),
        ([[1, 1]], "a polygon has 2 numbers"),
        ([[2, 1, 6, 4]], "a polygon has 4 numbers"),
        ([[2, 1, 6, 1, 6, 4], [2, 1, 6, 1, 6, 4, 2]], "a polygon has 7 numbers"),
        ([[2, 1, 6, 1, 6, None]], r"a polygon is \[2, 1"),
        ([[2, 1, 6, 1, 6, float("nan")]], r"a polygon is \[2, 1"),
        ([2, 1, 6, 1, 6, 4], "a polygon is 2"),
        ([{"counts": [70, 10], "size": [8, 10]}], "a polygon is {'counts'"),
        ({"counts": [70, 2], "size": [9, 8]}, r"its size is \[9, 8\], height and width, but the image's is \[8, 10\]"),
        ({"counts": [70, 10], "size": 80}, "its size is 80"),
        ({"counts": [70.0, 10.0], "size": [8, 10]}, "its counts are not whole numbers"),
        ({"counts": [90, -10], "size": [8, 10]}, "its counts are not whole numbers"),
        ({"counts": None, "size": [8, 10]}, "its counts are None"),
        ({"counts": [70, 9], "size": [8, 10]}, "decoded 79 pixels but expected 80"),
        ({"counts": [70, 11], "size": [8, 10]}, "exceed"),
        ({"counts": "oooo", "size": [8, 10]}, "malformed"),
    ],
    ids=str,
)
def test_a_segmentation_that_is_no_mask_of_the_image_is_named(segmentation, message):
    annotation = {"id": 6, "bbox": [1, 2, 3, 4], "category_id": 3, "segmentation": segmentation}
    with pytest.raises(DataError, match=f"annotation 6 has no segmentation that can be read .*{message}.*; expected"):
        target_of([annotation], (8, 10), Vocabulary.of(PEOPLE), masks=True)


@pytest.mark.parametrize("arrows", [False, True])
def test_a_mirror_of_the_mirror_is_the_scene(arrows):
    scenes = Shapes(count=4, side=48, part="train", seed=0, arrows=arrows, masks=True)
    swap = scenes.vocabulary.mirrored
    for scene in map(scenes.__getitem__, range(4)):
        once = mirrored(scene, swap)
        twice = mirrored(once, swap)

        assert not torch.equal(once.image, scene.image)
        assert torch.equal(twice.image, scene.image)
        assert all(torch.allclose(twice.target[key].float(), value.float()) for key, value in scene.target.items())
        for box, mask in zip(once.target["boxes"], once.target["masks"], strict=True):
            columns = mask.any(0).nonzero()
            assert abs(columns.min() - box[0]) <= 1.5
            assert abs(columns.max() + 1 - box[2]) <= 1.5


def test_left_and_right_keypoints_change_places_and_hidden_ones_stay():
    target = target_of(
        [{"bbox": [0, 0, 9, 9], "category_id": 7, "keypoints": [5, 1, 2, 2, 3, 2, 0, 0, 0]}],
        (10, 10),
        Vocabulary.of(PEOPLE),
        keypoints=True,
    )

    found = mirrored(Scene(torch.zeros(3, 10, 10, dtype=torch.uint8), target), Vocabulary.of(PEOPLE).mirrored)

    assert found.target["keypoints"].tolist() == [[[5, 1, 2], [0, 0, 0], [8, 3, 2]]]


def test_training_passes_crowds_over():
    target = target_of(
        [{"bbox": [0, 0, 9, 9], "category_id": 3, "iscrowd": 1}, {"bbox": [1, 1, 3, 3], "category_id": 7}],
        (10, 10),
        Vocabulary.of(PEOPLE),
    )

    found = without_crowds(Scene(torch.zeros(3, 10, 10, dtype=torch.uint8), target)).target

    assert found["labels"].tolist() == [2]
    assert found["boxes"].tolist() == [[1, 1, 4, 4]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"id": 4, "bbox": [1, 2], "category_id": 3}, "annotation 4 has no bbox of four numbers"),
        ({"id": 4, "category_id": 3}, "annotation 4 has no bbox of four numbers, but None"),
        ({"id": 4, "bbox": [1, 2, 3, float("nan")], "category_id": 3}, "annotation 4 has no bbox of four numbers"),
        ({"id": 4, "bbox": [1, 2, 3, None], "category_id": 3}, "annotation 4 has no bbox of four numbers"),
        ({"id": 5, "bbox": [1, 2, 3, 4], "category_id": 9}, "annotation 5 has category_id 9; expected one of the file"),
        ({"id": 5, "bbox": [1, 2, 3, 4]}, "annotation 5 has category_id None; expected one of the file"),
        ({"id": 6, **DOG, "area": "big"}, "annotation 6 has area 'big'; expected a number, or none"),
        ({"id": 7, **DOG, "iscrowd": "0"}, "annotation 7 has iscrowd '0'; expected 0 or 1"),
        ({"id": 8, **DOG, "keypoints": [1, 2, 2] * 2}, "annotation 8 has keypoints of 6 numbers; expected 9 .*_eye"),
        ({"id": 9, **DOG, "keypoints": [1, 2, None] * 3}, r"annotation 9 has keypoints \[1, 2, None.*expected 9"),
        ({"id": 9, **DOG, "keypoints": "none"}, "annotation 9 has keypoints 'none'; expected 9 numbers"),
    ],
)
def test_a_malformed_annotation_is_named(annotation, message):
    with pytest.raises(DataError, match=message):
        target_of([annotation], (10, 10), Vocabulary.of(PEOPLE), keypoints=True)


def test_what_may_be_null_is_as_if_it_were_missing():
    unknown = {"bbox": [1, 2, 3, 4], "category_id": 7, "area": None, "iscrowd": None, "keypoints": None}
    missing = {"bbox": [1, 2, 3, 4], "category_id": 7}

    found, expected = (
        target_of([each], (10, 10), Vocabulary.of(PEOPLE), keypoints=True) for each in (unknown, missing)
    )

    assert found["area"].tolist() == [12]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
