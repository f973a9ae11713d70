"""Average precision against an oracle that counts by hand."""

import numpy as np
import pytest
import torch

from slimmable.tasks.detection.batches import SceneBatch
from slimmable.tasks.detection.precision import SPREAD, AveragePrecision

THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIDE = 32
POINTS = 3


def box_overlap(found, truth):
    (a, b, c, d), (e, f, g, h) = found["box"], truth["box"]
    inner = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    return inner / ((c - a) * (d - b) + (g - e) * (h - f) - inner)


def mask_overlap(found, truth):
    return (found["mask"] & truth["mask"]).sum() / (found["mask"] | truth["mask"]).sum()


def point_overlap(found, truth):
    seen = truth["points"][:, 2] > 0
    apart = ((found["points"][:, :2] - truth["points"][:, :2]) ** 2).sum(1)
    return np.exp(-apart / (2 * truth["area"] * (2 * SPREAD) ** 2))[seen].mean()


def oracle(images, overlap, threshold):
    """Mean over classes of the average precision at one threshold; lists of found and true objects by image."""
    labels = sorted({each["label"] for _, truth in images for each in truth})
    means = []
    for label in labels:
        entries = []
        total = 0
        for found, truth in images:
            left = [each for each in truth if each["label"] == label]
            total += len(left)
            for each in sorted((f for f in found if f["label"] == label), key=lambda f: -f["score"]):
                best = max(left, key=lambda t: overlap(each, t), default=None)
                hit = best is not None and overlap(each, best) >= threshold
                if hit:
                    left = [t for t in left if t is not best]
                entries.append((each["score"], hit))
        entries.sort(key=lambda entry: -entry[0])
        hits = np.cumsum([hit for _, hit in entries])
        recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
        means.append(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))
    return float(np.mean(means))


def random_object(random, label):
    left, top = random.uniform(0, SIDE / 2, 2)
    across, down = random.uniform(4, SIDE / 2, 2)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[int(top) : int(top + down) + 1, int(left) : int(left + across) + 1] = True
    points = np.column_stack(
        [random.uniform(left, left + across, POINTS), random.uniform(top, top + down, POINTS), [2.0, 2.0, 1.0]]
    )
    box = [left, top, left + across, top + down]
    return {"label": label, "box": box, "mask": mask, "points": points, "area": float(mask.sum())}


def shaken(random, truth):
    shift = random.normal(0, 1.2, 4)
    mask = np.roll(truth["mask"], random.integers(-2, 3, 2), (0, 1))
    points = truth["points"].copy()
    points[:, :2] += random.normal(0, 1.5, (POINTS, 2))
    return {**truth, "box": list(np.array(truth["box"]) + shift), "mask": mask, "points": points}


def problem(seed):
    random = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        truth = [random_object(random, int(random.integers(1, 3))) for _ in range(random.integers(0, 4))]
        found = [shaken(random, each) for each in truth for _ in range(random.integers(0, 3))]
        found += [random_object(random, int(random.integers(1, 4))) for _ in range(random.integers(0, 3))]
        images.append(([{**each, "score": float(random.uniform())} for each in found], truth))
    return images


def tensors(objects):
    def stacked(key, shape, kind=torch.float32):
        return torch.as_tensor(np.array([each[key] for each in objects]), dtype=kind).reshape(-1, *shape)

    target = {
        "boxes": stacked("box", (4,)),
        "labels": stacked("label", (), torch.int64),
        "masks": stacked("mask", (SIDE, SIDE), torch.uint8),
        "keypoints": stacked("points", (POINTS, 3)),
        "area": stacked("area", ()),
        "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
    }
    if objects and "score" in objects[0]:
        target["scores"] = stacked("score", ())
    return target


def measured(images, *judged):
    metric = AveragePrecision(*judged, keypoints=POINTS)
    for found, truth in images:
        outputs = tensors(found)
        outputs.setdefault("scores", torch.zeros(0))
        metric.update([outputs], SceneBatch([torch.zeros(3, SIDE, SIDE)], [tensors(truth)]))
    found = metric.compute()
    assert found["loss"] == pytest.approx(1 - found[f"{judged[-1].rstrip('s')}_ap" if judged else "ap"], nan_ok=True)
    return found


def figures(*found):
    return {value for each in found for name, value in each.items() if name != "loss"}


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_oracle(seed):
    images = problem(seed)

    found = {**measured(images, "masks"), **measured(images, "keypoints")}

    # Boxes were single precision on their way; no overlap lies so near a threshold.
    for prefix, overlap in (("", box_overlap), ("mask_", mask_overlap), ("keypoint_", point_overlap)):
        expected = [oracle(images, overlap, threshold) for threshold in THRESHOLDS]
        assert found[f"{prefix}ap"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert found[f"{prefix}ap50"] == pytest.approx(expected[0], abs=1e-6)


def test_the_truth_itself_is_perfect_and_nothing_found_is_worthless():
    images = [([{**each, "score": 0.5} for each in truth], truth) for _, truth in problem(0)]

    assert figures(measured(images, "masks"), measured(images, "keypoints")) == {1.0}
    assert figures(measured([([], truth) for _, truth in images], "masks")) == {0.0}


def test_figures_do_not_depend_on_how_images_are_batched():
    images = problem(1)
    whole = AveragePrecision()
    batch = SceneBatch([torch.zeros(3, SIDE, SIDE)] * len(images), [tensors(truth) for _, truth in images])
    outputs = [{"scores": torch.zeros(0), **tensors(found)} for found, _ in images]
    whole.update(outputs, batch)

    assert whole.compute() == measured(images)


def test_a_crowd_is_neither_to_be_found_nor_a_mistake():
    truth = [random_object(np.random.default_rng(0), 1), random_object(np.random.default_rng(1), 1)]
    found = [{**each, "score": score} for each, score in zip(truth, (0.5, 0.9), strict=True)]
    metric = AveragePrecision()
    target = tensors(truth)
    target["iscrowd"][1] = 1
    metric.update([tensors(found)], SceneBatch([torch.zeros(3, SIDE, SIDE)], [target]))

    assert metric.compute() == {"ap": 1.0, "ap50": 1.0, "loss": 0.0}


def test_without_an_object_there_is_no_figure():
    found = measured([([], [])])

    assert all(np.isnan(value) for value in found.values())
