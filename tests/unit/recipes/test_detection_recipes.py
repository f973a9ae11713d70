"""Recipes of detection and segmentation: the paper's settings, and one step of them at full size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimmable.errors import RecipeError
from slimmable.models.vision_options import DEVIATION
from slimmable.recipes import RECIPES, open_run, open_subnetwork, read_recipe, recipe, run, write_subnetwork
from slimmable.recipes.building import new_network, sampler
from slimmable.recipes.detection import CLIP
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.figures import measure
from slimmable.recipes.methods import SNet
from slimmable.recipes.run import calibrate_run
from slimmable.recipes.searching import HeldOutLoss
from slimmable.recipes.widths import NamedWidths, name_ratios
from slimmable.runtime.manifest import Tensor as ImageInput
from slimmable.runtime.server.images import Preprocessing
from slimmable.tasks.detection.shapes import CORNERS, write_shapes
from slimmable.train import Sgd, Step
from slimmable.train.step import train_step
from tests.unit.recipes.scenes import TINY, TINY_MAPS

COCO = [name for name in RECIPES if "/coco-" in name]
EVERY_TIME = ("instance-segmentation/coco-mask-rcnn",)  # Faster R-CNN with a branch more


def drawn(name: str, folder: Path, *, images: tuple[int, int], side: int) -> list[str]:
    """A folder of shapes for a recipe, and the changes of the recipe that read it."""
    arrows = name.startswith("keypoints")
    write_shapes(folder, images=images, side=side, arrows=arrows)
    return [f"task.data.root={folder}", *([f"task.network.keypoints={len(CORNERS)}"] if arrows else [])]


@pytest.mark.parametrize("name", COCO)
def test_settings_are_those_of_the_paper(name):
    found = recipe(name)

    network, train, data = found.task.network, found.train, found.task.data
    assert (network.backbone, network.norm, network.size.neck, network.size.width) == ("resnet50", "frozen", 256, 1.0)
    assert found.method == SNet(switches=(0.25, 0.5, 0.75, 1.0))
    assert not train.distillation
    assert (train.clip_norm, train.weight_decay, train.epochs) == (35, 1e-4, 12)
    assert train.schedule == Step(milestones=(8, 11), ratio=0.1)
    assert train.optimizer == Sgd(momentum=0.9, nesterov=False)
    assert train.lr == (0.01 if network.name in ("retinanet", "fcos") else 0.02)
    assert (data.size, data.max_size, data.batch_size) == (800, 1333, 16)
    with_people, with_objects = 64_115, 117_266  # images of train2017
    images = with_people if name.startswith("keypoints") else with_objects
    steps = round(images * (1 - data.held_out)) // data.batch_size
    assert round(train.warmup_epochs * steps) == 500
    assert found.start.into == "detector.backbone.body"
    assert CLIP == 35


@pytest.mark.parametrize("name", COCO)
def test_neck_and_heads_stay_wide_and_full_networks_convert(name, tmp_path):
    found = read_recipe(name, [*drawn(name, tmp_path, images=(4, 2), side=64), "task.data.size=64"])

    net = new_network(found, found.task.build())

    made = {module for group in net.report.groups for module in group.producers}
    assert made
    assert all(module.startswith("detector.backbone.body.") for module in made)
    laterals = [block[0] for block in net.model.detector.backbone.fpn.inner_blocks]
    with net.at(net.space.smallest):
        shapes = [tuple(layer.weight.shape[:2]) for layer in laterals]
    assert shapes == [(256, width) for width in (64, 128, 256, 512)[4 - len(laterals) :]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in EVERY_TIME else pytest.param(name, marks=pytest.mark.nightly) for name in COCO]
)
def test_one_step_at_full_size(name, tmp_path):
    changes = drawn(name, tmp_path, images=(3, 1), side=640)
    found = read_recipe(name, [*changes, "task.data.batch_size=1", "task.data.workers=0", "start=null"])
    task = found.task.build()
    net = new_network(found, task)
    calibrate_run(
        net, task, found, [NamedWidths(label="", widths=each) for each in net.switches], samples=1, progress=False
    )
    net.train()
    chooser = sampler(found, net, steps_per_epoch=1)
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))
    assert task.network_of(3).detector.transform([*batch.images])[0].tensors.shape == (1, 3, 800, 800)

    losses = train_step(net, batch, task=task, widths_list=chooser.ask(0, list), distill=False)

    assert len(losses) == 4
    assert all(torch.isfinite(loss) for loss in losses)
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), found.train.clip_norm)
    assert torch.isfinite(norm)
    assert all(each.grad is None for each in net.tables.parameters())


@pytest.mark.parametrize("name", ["segmentation/voc-deeplabv3", "segmentation/voc-lraspp"])
def test_costs_and_artifacts_of_voc_are_for_the_size_of_training(name):
    section = recipe(name).task

    [example] = section.build().example_inputs()

    assert example.shape == (2, 3, 480, 480)
    found = section.preprocessing(NetworkFacts(input_size=tuple(example.shape[1:])))
    assert (found["resize"], found["size"]) == (520, [480, 480])


@pytest.mark.parametrize(("size", "crop", "side"), [(40, 32, 32), (40, 64, 40)], ids=["cut", "whole"])
def test_an_artifact_sees_what_evaluation_sees(size, crop, side, tmp_path):
    root = write_shapes(tmp_path, images=(2, 1), side=96)
    changes = [f"task.data.size={size}", f"task.data.crop={crop}", "task.data.dataset=folder", f"task.data.root={root}"]
    every = ["task.data.train_images=null", "task.data.test_images=null"]
    section = read_recipe("segmentation/smoke", [*changes, *every]).task
    task = section.build()
    facts = section.facts(task)
    taken = ImageInput(name="images", shape=(None, *facts.input_size), dtype="float32")

    prepare = Preprocessing.of(section.preprocessing(facts), [taken])

    [file] = (root / "val").iterdir()
    found = torch.from_numpy(prepare(file.read_bytes(), max_pixels=10**6))
    [batch] = task.test_batches()
    edge = (size - side) // 2
    assert found.shape == (1, 3, side, side)
    level = 1 / 255 / min(DEVIATION)  # two libraries round to bytes
    centre = batch.images[..., edge : edge + side, edge : edge + side]
    torch.testing.assert_close(found, centre, rtol=0, atol=1.01 * level)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["task.kind=keypoints"],
            "task.network.name is faster_rcnn, which does not do keypoints; expected keypoint_rcnn",
        ),
        (["task.network.name=yolo"], "task.network.name is 'yolo'"),
        (["task.network.size.necks=8"], "unknown key task.network.size.necks"),
        (["task.data.size=8"], "SceneSettings.size is 8"),
    ],
)
def test_a_wrong_change_is_named(changes, message):
    with pytest.raises(RecipeError) as caught:
        read_recipe("detection/smoke", [*changes, "train.epochs=1"])

    assert message in str(caught.value)


def test_an_unfinished_pretraining_is_named(tmp_path):
    found = read_recipe("detection/smoke", [*TINY, f"start.run={tmp_path / 'nowhere'}"])

    with pytest.raises(Exception, match="nowhere holds no run"):
        run(found, tmp_path / "run", device="cpu", progress=False)


@pytest.mark.parametrize(
    ("name", "changes"), [("detection/smoke", TINY), ("segmentation/smoke", TINY_MAPS)], ids=["boxes", "pixels"]
)
def test_a_run_comes_back_without_its_data(name, changes, tmp_path):
    rows = run(read_recipe(name, [*changes]), tmp_path / "run", device="cpu", progress=False)

    opened = open_run(tmp_path / "run")

    found = measure(opened.net, opened.task, name_ratios([float(row.label) for row in rows], opened.net.space))
    # In another memory format than it was trained in the network rounds otherwise.
    assert [row.figures for row in found] == [pytest.approx(row.figures, abs=1e-5) for row in rows]
    assert [(row.label, row.macs, row.parameters) for row in found] == [
        (row.label, row.macs, row.parameters) for row in rows
    ]
    if name.startswith("segmentation"):
        [loss] = HeldOutLoss(opened.net, opened.task, samples=4, seed=0)([opened.net.space.smallest])
        assert 0 < loss < 10
    facts = json.loads((tmp_path / "run" / "network.json").read_text())
    assert facts["classes"] == ["circle", "square", "triangle"]
    [half] = name_ratios((0.5,), opened.net.space)
    manifest = write_subnetwork(opened, half, tmp_path / "half", fold_batch_norm=True)
    assert "data" not in manifest["task"]
    plain = open_subnetwork(tmp_path / "half")
    norms = [path for path, module in plain.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(path.startswith("aux_classifier.") for path in norms)  # which evaluation does not run


def test_recipes_need_no_torchvision_until_a_network_is_built():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from slimmable.recipes import RECIPES, recipe\n"
        "tasks = [recipe(name).task.build() for name in RECIPES if name.endswith('/smoke')]\n"
        "for task in tasks:\n"
        "    try:\n"
        "        task.network_of(1)\n"
        "    except AttributeError:\n"
        "        pass\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("torchvision's, which is not installed: pip install 'slimmable[detection]'" in line for line in lines)
