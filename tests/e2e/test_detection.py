"""The way of a user who finds objects on images or names their pixels, all from the command line."""

import json
import sys

import pytest
import torch

from slimmable.cli.main import main
from slimmable.recipes import open_run, open_subnetwork
from slimmable.tasks.detection.shapes import write_shapes
from tests.e2e.killed import assert_a_killed_run_goes_on
from tests.unit.recipes.scenes import SIZE, TINY, TINY_MAPS

EPOCHS = 6
KILLED = ("detection", "segmentation")
"""Of these a run is killed every time: the other two train as detection does."""

UNIVERSAL = ("method.kind=us-net", "calibration={samples: 8}", "evaluation.widths=0.5,1.0")
"""Any width, calibrated afterwards."""

RUNS = {
    "detection": ("detection/smoke", *TINY, *UNIVERSAL),
    "instance-segmentation": ("instance-segmentation/smoke", *TINY),
    "keypoints": ("keypoints/smoke", *TINY, "task.network.norm=frozen"),
    "segmentation": ("segmentation/smoke", *TINY_MAPS, "evaluation.widths=0.5,1.0"),
}
KINDS = [pytest.param(kind, marks=pytest.mark.nightly) if kind == "keypoints" else kind for kind in RUNS]
FIGURES = {
    "detection": ["ap", "ap50"],
    "instance-segmentation": ["ap", "ap50", "mask_ap", "mask_ap50"],
    "keypoints": ["ap", "ap50", "keypoint_ap", "keypoint_ap50"],
    "segmentation": ["miou", "pixel_accuracy"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a finished run of every kind, by its name; trained when it is first asked for."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def run(kind):
        if kind not in made:
            made[kind] = root / kind
            assert main(["train", *RUNS[kind], "--device", "cpu", "--folder", str(made[kind])]) == 0
        return made[kind]

    return run


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_over_a_range_of_widths(runs, kind, tmp_path, capsys):
    folder = runs(kind)
    any_width = kind in ("detection", "segmentation")
    if any_width:
        assert main(["eval", str(folder), "--widths", "0.5:1.0:0.25"]) == 2
        assert "no batch-norm statistics at widths 0.75" in capsys.readouterr().err
        assert main(["calibrate", str(folder), "--widths", "0.75", "--samples", "8"]) == 0
    wanted = "0.5:1.0:0.25" if any_width else "0.25:1.0:0.25"
    capsys.readouterr()

    assert main(["eval", str(folder), "--widths", wanted, "--json", str(tmp_path / "e.json")]) == 0

    table = lines(capsys)
    assert table[0][1 : 1 + len(FIGURES[kind])] == FIGURES[kind]
    assert [row[0] for row in table[1:]] == ["0.25", "0.5", "0.75", "1.0"][1 if any_width else 0 :]
    found = {row["label"]: row for row in json.loads((tmp_path / "e.json").read_text())["widths"]}
    known = json.loads((folder / "evaluation.json").read_text())["widths"]
    for row in known:
        assert found[row["label"]] == {**row, "figures": pytest.approx(row["figures"], abs=1e-5)}
    costs = [row["macs"] for row in found.values()]
    assert costs == sorted(costs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_network_is_plain_and_finds_the_same(runs, kind, tmp_path, capsys):
    folder, path = runs(kind), tmp_path / "half.safetensors"

    assert main(["extract", str(folder), "--width", "0.5", "-o", str(path)]) == 0

    assert "read back, it gives the same output" in capsys.readouterr().out
    net, task, *_ = open_run(folder)
    batch = next(iter(task.test_batches()))
    with torch.no_grad(), net.at(net.space.uniform(0.5)):
        expected = task.forward(net, batch)
        plain = open_subnetwork(path)
        found = task.forward(plain, batch) if kind == "segmentation" else plain.detector(batch.images)
    pairs = [(found, expected)] if kind == "segmentation" else zip(found, expected, strict=True)
    assert all(torch.equal(ours[key], theirs[key]) for ours, theirs in pairs for key in theirs)


def test_folders_take_the_place_of_shapes(tmp_path, capsys):
    root = write_shapes(tmp_path / "data", images=(8, 4), side=64)
    command = ["train", "detection/smoke", *SIZE, "train.epochs=1", "task.data.dataset=folder", "task.data.workers=0"]
    whole = ["task.data.train_images=null", "task.data.test_images=null", "--device", "cpu"]

    assert main([*command, f"task.data.root={root}", *whole, "--folder", str(tmp_path / "run")]) == 0
    assert "ap50" in capsys.readouterr().out
    (root / "annotations" / "instances_val.json").unlink()
    assert main([*command, f"task.data.root={root}", *whole, "--folder", str(tmp_path / "other")]) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert "expected train and val" in found
    assert found.count("\n") == 1


def test_distillation_of_boxes_is_one_clear_error(tmp_path, capsys):
    command = ["train", "detection/smoke", *TINY, "train.distillation=true", "--device", "cpu"]

    assert main([*command, "--folder", str(tmp_path / "run")]) == 2

    assert "set train.distillation=false" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["instance-segmentation", "keypoints"])
def test_smoke_recipes_run_as_they_are(kind, tmp_path, capsys):
    """Those of the other tasks run every time, with the commands of the documentation."""
    assert main(["train", f"{kind}/smoke", "--folder", str(tmp_path / "run")]) == 0

    assert [row[0] for row in lines(capsys)[-5:-1]] == ["0.25", "0.5", "0.75", "1.0"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind if kind in KILLED else pytest.param(kind, marks=pytest.mark.nightly) for kind in RUNS]
)
def test_a_killed_run_goes_on_to_the_same_weights(kind, tmp_path):
    assert_a_killed_run_goes_on(["train", *RUNS[kind], "--device", "cpu"], tmp_path, epochs=EPOCHS)
