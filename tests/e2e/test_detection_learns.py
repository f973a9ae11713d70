"""Detectors learn: average precision at every width, after two minutes on a folder in COCO's format.

Mask and Keypoint R-CNN are Faster R-CNN with a branch more, and their boxes are judged too.
"""

import pytest

from slimmable.recipes import read_recipe, run
from slimmable.tasks.detection.shapes import write_shapes

SIDE, STEPS = 96, 200
FIGURES = {"instance-segmentation": "mask_ap50", "keypoints": "keypoint_ap50"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIGURES)
def test_precision_rises_at_every_width(kind, tmp_path):
    root = write_shapes(tmp_path / "shapes", images=(420, 40), side=SIDE, arrows=kind == "keypoints")
    changes = [
        "task.data.dataset=folder",
        f"task.data.root={root}",
        f"task.data.size={SIDE}",
        "task.data.batch_size=4",
        "task.data.workers=0",
        "task.data.held_out=0.04",
        "train.epochs=2",
        "train.lr=1.5e-3",
        "train.validate_every=2",
    ]
    found = read_recipe(f"{kind}/shapes", changes)
    task = found.task.build()
    assert 2 * len(task.train_batches(task.model(), epoch=0, seed=0)) == STEPS

    rows = run(found, tmp_path / "run", device="cpu", progress=False)

    assert [row.label for row in rows] == ["0.25", "0.5", "0.75", "1.0"]
    for figure in ("ap50", FIGURES[kind]):
        assert min(row.figures[figure] for row in rows) >= 0.2
        assert rows[-1].figures[figure] >= 0.35
