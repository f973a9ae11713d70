"""Recipes of every kind of task: how they are told apart, and that nothing of the old ones was lost."""

import json
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimmable.errors import CheckpointError, RecipeError
from slimmable.recipes import RECIPES, open_run, open_subnetwork, read_recipe, recipe, run, write_subnetwork
from slimmable.recipes.building import new_network
from slimmable.recipes.config import Recipe
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.figures import measure
from slimmable.recipes.folder import begin
from slimmable.recipes.profiling import network_of_run
from slimmable.recipes.searching import HeldOutLoss
from slimmable.recipes.tasks import ClassificationSettings, SuperResolutionSettings, TaskSection, TaskSettings
from slimmable.recipes.widths import name_ratios
from slimmable.tasks import SuperResolutionTask
from slimmable.train import AdamW
from tests.unit.recipes.images import TINY, write_images

UPSCALERS = [name for name in RECIPES if name.startswith("super-resolution/")]
SECTIONS = [get_args(section)[0] for section in get_args(get_args(TaskSettings)[0])]


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    """Folder of a finished run of super-resolution, its recipe, and the figures it returned."""
    root = write_images(tmp_path_factory.mktemp("images"))
    folder = tmp_path_factory.mktemp("runs") / "upscaler"
    found = read_recipe("super-resolution/smoke", [*TINY, f"task.data.root={root}"])
    return folder, found, run(found, folder, device="cpu", progress=False)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_kind_does_what_recipes_ask_of_it(section):
    asked = {name for name in vars(TaskSection) if not name.startswith("_")} | {"harmless"}

    assert asked <= set(dir(section))
    made = section()
    if not hasattr(made, "data"):
        assert made.root is None
        with pytest.raises(RecipeError, match="reads no data; leave 'elsewhere' out"):
            made.at("elsewhere")
        return
    assert made.at("elsewhere").root == "elsewhere"
    assert made.at("elsewhere").kind == made.kind
    keys = {f"data.{name}" for name in vars(type(made.data))["__dataclass_fields__"]}
    assert "data.root" in section.harmless <= keys


def test_a_recipe_without_a_kind_is_of_classification(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("task: {label_smoothing: 0.1, network: {name: digits_cnn}}\ntrain: {epochs: 2}\n")

    found = read_recipe(path)

    assert isinstance(found.task, ClassificationSettings)
    assert found.task.label_smoothing == 0.1


def test_another_kind_starts_from_its_defaults():
    found = read_recipe("digits/us-net", ["task.kind=super-resolution", "task.scale=3", "train.epochs=2"])

    assert found.task == SuperResolutionSettings(scale=3)
    assert found.train.epochs == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "task.kind=superresolution",
            "task.kind is 'superresolution'; expected one of classification, super-resolution",
        ),
        ("task=3", "task is 3; expected keys and values"),
        ("task.scale=5", "task.scale is 5; expected 2, 3 or 4"),
        ("task.loss=l3", "task.loss is 'l3'; expected 'l1' or 'l2'"),
        ("task.data.pach=8", "unknown key task.data.pach = 8; the nearest valid key is task.data.patch"),
        ("task.network.block=8", "unknown key task.network.block = 8; the nearest valid key is task.network.blocks"),
        ("task.label_smoothing=0.1", "unknown key task.label_smoothing"),
        ("task.data.dataset=folder", "task.data: PatchDataSettings.root is None"),
        ("task.network.blocks=0", "task.network.blocks is 0; expected greater than or equal to 1"),
    ],
)
def test_a_wrong_change_is_named_with_what_was_expected(change, message):
    with pytest.raises(RecipeError) as caught:
        read_recipe("super-resolution/photos", [change])

    assert message in str(caught.value)


@pytest.mark.parametrize("name", UPSCALERS)
def test_recipes_have_the_settings_of_the_paper(name):
    found = recipe(name)

    assert isinstance(found.task, SuperResolutionSettings)
    least = 0.25 if name == "super-resolution/photos" else 0.5
    assert (found.convert.min_ratio, found.convert.max_ratio, found.task.network.name) == (least, 1.0, "wdsr_a")
    loss = "l1" if "wdsr" in name else "l2"
    assert (found.train.distillation, found.task.loss, found.task.distillation_loss) == (True, loss, loss)
    assert found.train.weight_decay == 0
    if "wdsr" in name:
        scale, features = name.removeprefix("super-resolution/wdsr-x").split("-")
        assert (found.task.scale, found.task.network.width) == (int(scale), int(features) / 64)
        assert (found.task.network.blocks, found.task.data.patch, found.task.data.batch_size) == (8, 48, 16)
        assert (found.train.lr, found.train.optimizer) == (1e-3, AdamW(betas=(0.9, 0.999)))
        steps = found.train.epochs * (790 * found.task.data.repeats // 16)
        assert abs(steps - 300_000) < 1000
        assert abs(found.train.schedule.milestones[0] * (790 * found.task.data.repeats // 16) - 200_000) < 1000


@pytest.mark.parametrize(
    ("name", "features"),
    [("photos", range(8, 33, 3)), ("wdsr-x2-32", range(16, 33, 2)), ("wdsr-x4-64", range(32, 65, 4))],
)
def test_nine_widths_up_to_all_features(name, features):
    found = recipe(f"super-resolution/{name}")
    net = new_network(found, found.task.build())

    widths = [net.space.uniform(ratio) for ratio in found.ratios]

    assert [each["head"] for each in widths] == [*features]
    assert all(each["body.0.expand"] == 4 * each["head"] for each in widths)


def test_a_run_of_super_resolution_leaves_what_every_run_leaves(upscaler):
    folder, found, rows = upscaler

    assert [row.label for row in rows] == ["0.5", "0.75", "1.0"]
    names = ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "bicubic_psnr_y", "loss"]
    assert all(list(row.figures) == names for row in rows)
    assert read_recipe(folder / "recipe.yaml") == found
    assert json.loads((folder / "network.json").read_text()) == {
        "input_size": [3, 48, 48],
        "classes": [],
        "resize": [],
    }
    opened = open_run(folder)
    assert measure(opened.net, opened.task, name_ratios(found.ratios, opened.net.space)) == rows
    net, size = network_of_run(folder)
    assert (net.space, size) == (opened.net.space, (3, 48, 48))


def test_the_data_may_have_moved(upscaler):
    task = open_run(upscaler[0], root="elsewhere").task

    assert isinstance(task, SuperResolutionTask)
    assert task.pipeline.settings.root == "elsewhere"


def test_resuming_may_read_the_images_elsewhere_but_not_others(upscaler):
    folder, found, _ = upscaler
    task = found.task.at(folder)
    begin(folder, found.model_copy(update={"task": task}), resume=True)
    begin(folder, found, resume=True)
    with pytest.raises(CheckpointError, match=r"has task.data.patch = 12 in .*, now it is 16"):
        begin(folder, read_recipe(folder / "recipe.yaml", ["task.data.patch=16"]), resume=True)


def test_a_sub_network_is_plain_and_tells_no_paths(upscaler, tmp_path):
    folder, found, _ = upscaler
    opened = open_run(folder)
    [half] = name_ratios((0.5,), opened.net.space)

    manifest = write_subnetwork(opened, half, tmp_path / "half.safetensors")

    assert str(found.task.root) not in json.dumps(manifest)
    plain = open_subnetwork(tmp_path / "half.safetensors")
    assert all(not type(module).__module__.startswith("slimmable.core") for module in plain.modules())
    images = torch.rand(1, 3, 20, 33)
    with torch.no_grad(), opened.net.at(half.widths):
        assert torch.equal(plain(images), opened.net(images))


def test_a_sub_network_of_the_first_version_is_still_read(finished, tmp_path):
    opened = open_run(finished[0])
    [half] = name_ratios((0.5,), opened.net.space)
    write_subnetwork(opened, half, tmp_path / "new")
    with safe_open(tmp_path / "new", framework="pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    manifest["network"] = manifest.pop("task")["network"]
    old = {"format": "slimmable subnetwork", "version": "1", "manifest": json.dumps(manifest)}
    save_file(tensors, tmp_path / "old", old)

    found = open_subnetwork(tmp_path / "old").state_dict()

    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    save_file(tensors, tmp_path / "newer", {**old, "version": "9"})
    with pytest.raises(CheckpointError, match=r"version '9'; expected .* version 1 or 2"):
        open_subnetwork(tmp_path / "newer")


def test_facts_of_before_are_still_read(tmp_path):
    (tmp_path / "network.json").write_text('{"classes": ["cat", "dog"], "input_size": [3, 8, 8]}')

    assert NetworkFacts.load(tmp_path / "network.json") == NetworkFacts(classes=("cat", "dog"), input_size=(3, 8, 8))


def test_searches_find_a_loss_to_minimise(upscaler):
    net, task, found, _ = open_run(upscaler[0])
    objective = HeldOutLoss(net, task, samples=4, seed=found.train.seed)

    losses = objective([net.space.smallest, net.space.largest])

    assert all(0 < loss < 1 for loss in losses)


def test_the_whole_recipe_may_be_written_in_python():
    made = Recipe(task=SuperResolutionSettings(scale=4), train=recipe("super-resolution/photos").train)

    assert made.task.build().scale == 4
