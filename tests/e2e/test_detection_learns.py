"""Detectors learn: average precision at every width, after a few minutes on a folder in COCO's format."""

import pytest

from slimmable.recipes import read_recipe, run
from slimmable.tasks.detection.shapes import write_shapes

STEPS = 150
FIGURES = {"detection": "ap50", "instance-segmentation": "mask_ap50", "keypoints": "keypoint_ap50"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIGURES)
def test_precision_rises_at_every_width(kind, tmp_path):
    root = write_shapes(tmp_path / "shapes", images=(420, 40), side=128, arrows=kind == "keypoints")
    changes = [
        "task.data.dataset=folder",
        f"task.data.root={root}",
        "task.data.workers=0",
        "task.data.held_out=0.04",
        "train.epochs=3",
        "train.validate_every=3",
    ]
    found = read_recipe(f"{kind}/shapes", changes)
    task = found.task.build()
    assert 3 * len(task.train_batches(task.model(), epoch=0, seed=0)) == STEPS

    rows = run(found, tmp_path / "run", device="cpu", progress=False)

    assert [row.label for row in rows] == ["0.25", "0.5", "0.75", "1.0"]
    assert min(row.figures[FIGURES[kind]] for row in rows) >= 0.15
    assert rows[-1].figures[FIGURES[kind]] >= 0.25
