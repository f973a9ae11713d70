"""A recipe carried out in a folder."""

import csv
import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from slimmable import CostModel
from slimmable.errors import CalibrationError, CheckpointError, DataError, RecipeError, SlimmableError, TrainingError
from slimmable.measure.evaluation import evaluate
from slimmable.recipes import open_run, read_recipe, run
from slimmable.recipes.building import new_network, sampler
from slimmable.recipes.exporting import export_run
from slimmable.recipes.figures import measure, require_calibrated
from slimmable.recipes.folder import begin, choose_device
from slimmable.recipes.run import calibrate_run
from slimmable.recipes.widths import name_ratios
from slimmable.record import RunRecord
from slimmable.train import Fixed, Sandwich, SwitchList
from tests.unit.recipes.conftest import SMALL


def test_the_folder_holds_everything(finished):
    folder, recipe, rows = finished

    assert read_recipe(folder / "recipe.yaml") == recipe
    assert RunRecord.load(folder / "record.json").status == "finished"
    assert any((folder / "curves").iterdir())
    saved = json.loads((folder / "evaluation.json").read_text())
    assert [row["label"] for row in saved["widths"]] == ["0.5", "0.75", "1.0"]
    assert [row["figures"] for row in saved["widths"]] == [row.figures for row in rows]
    with (folder / "evaluation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(line["macs"]) for line in table] == [row.macs for row in rows]


def test_an_opened_run_gives_the_same_figures_to_the_bit(finished, opened):
    _, recipe, rows = finished
    widths = [opened.net.space.uniform(ratio) for ratio in recipe.ratios]

    found = evaluate(
        opened.net, opened.task.test_batches(), widths, forward=opened.task.forward, metric_factory=opened.task.metrics
    )

    assert found == [row.figures for row in rows]
    assert CostModel(opened.net).macs(widths).tolist() == [row.macs for row in rows]
    assert not opened.net.training


def test_a_run_is_opened_without_its_data(finished, monkeypatch):
    def absent(_settings):
        raise DataError("the data are gone")

    monkeypatch.setattr("slimmable.tasks.images.pipeline.load_splits", absent)

    net, task, _, facts = open_run(finished[0])

    with torch.no_grad(), net.at(net.space.uniform(0.5)):
        assert net(*facts.example_inputs()).shape == (2, 10)
    with pytest.raises(DataError, match="the data are gone"):
        next(iter(task.test_batches()))


def test_the_data_may_have_moved(finished):
    assert open_run(finished[0], root="elsewhere").task.pipeline.settings.root == "elsewhere"


def test_a_folder_with_a_run_is_refused(finished):
    folder, recipe, _ = finished
    with pytest.raises(TrainingError, match=r"already holds a run; resume it \(--resume"):
        run(recipe, folder, device="cpu")


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        run(read_recipe("digits/us-net", SMALL), tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task.network.name=digits_cn"], "digits_cn"),
        (["task.data.dataset=folder", "task.data.root=absent"], "absent"),
        (["convert.exclude=[nowhere]"], "no module matches 'nowhere'"),
        (["start.run=absent"], "absent holds no run"),
        (
            ["method.kind=s-net", "method.switches=[1, 0.99]", "evaluation.widths=null"],
            "2 switches hold 1 distinct widths",
        ),
    ],
    ids=["network", "data", "conversion", "start", "sampler"],
)
def test_a_start_that_fails_leaves_the_folder_free(tmp_path, changes, message):
    folder = tmp_path / "run"
    wrong = read_recipe("digits/us-net", [*SMALL, *changes])

    for resume in (False, True):
        with pytest.raises(SlimmableError, match=message):
            run(wrong, folder, device="cpu", resume=resume)

        assert not folder.exists()


def test_a_run_that_began_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    first, second = (read_recipe("digits/us-net", [*SMALL, f"train.seed={seed}"]) for seed in (1, 2))

    def beginning(*args, **options):
        begin(tmp_path / "run", second, resume=False)
        return sampler(*args, **options)

    monkeypatch.setattr(import_module("slimmable.recipes.run"), "sampler", beginning)

    with pytest.raises(TrainingError, match="already holds a run"):
        run(first, tmp_path / "run", device="cpu")

    assert read_recipe(tmp_path / "run" / "recipe.yaml").train.seed == 2


def test_resuming_another_recipe_is_refused_with_the_first_difference(finished):
    folder, _, _ = finished
    with pytest.raises(CheckpointError, match=r"has convert.divisor = 8 in .*, now it is 16"):
        begin(folder, read_recipe("digits/us-net", [*SMALL, "convert.divisor=16"]), resume=True)


def test_resuming_a_finished_run_may_evaluate_other_widths(tmp_path):
    recipe = read_recipe("digits/us-net", SMALL)
    first = run(recipe, tmp_path / "run", device="cpu")
    again = read_recipe("digits/us-net", [*SMALL, "evaluation.widths=[0.5]", "task.data.workers=1"])

    second = run(again, tmp_path / "run", resume=True, device="cpu")

    assert [row.label for row in second] == ["0.5"]
    assert second[0].figures == first[0].figures
    assert read_recipe(tmp_path / "run" / "recipe.yaml").ratios == (0.5,)


def test_the_place_of_the_data_is_written_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("cifar10/us-net", ["task.data.root=images"])

    assert begin(tmp_path / "run", recipe, resume=False).task.data.root == str(tmp_path / "images")


@pytest.mark.parametrize(
    ("remove", "message"),
    [("recipe.yaml", "holds no run: recipe.yaml is missing"), ("network.safetensors", "is not finished; go on with")],
)
def test_what_is_not_there_cannot_be_opened(tmp_path, remove, message):
    for name in {"recipe.yaml", "network.safetensors"} - {remove}:
        (tmp_path / name).write_text("train: {epochs: 1}\n")
    with pytest.raises(CheckpointError, match=message):
        open_run(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"classes": ["a"]}', '{"classes": ["a"], "input_size": ["x"]}'])
def test_damaged_facts_are_a_clear_error(finished, tmp_path, content):
    folder, _, _ = finished
    for path in folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "network.json").write_text(content)
    with pytest.raises(DataError, match=r"cannot be read|does not describe a network"):
        open_run(tmp_path)


def test_widths_without_statistics_are_named(opened):
    widths = name_ratios((0.3, 0.5, 0.35), opened.net.space)
    with pytest.raises(CalibrationError, match=r"at widths 0\.3, 0\.35; calibrate them first: slimmable calibrate"):
        require_calibrated(opened.net, widths)
    with pytest.raises(CalibrationError, match=r"0\.3, 0\.35"):
        measure(opened.net, opened.task, widths)


@pytest.mark.parametrize("samples", [0, -5])
def test_a_number_of_samples_below_one_is_refused(finished, opened, samples, tmp_path):
    widths = name_ratios((0.5,), opened.net.space)
    with pytest.raises(RecipeError, match=f"samples is {samples}; expected at least 1"):
        calibrate_run(opened.net, opened.task, opened.recipe, widths, samples=samples)
    with pytest.raises(RecipeError, match=f"samples is {samples}; expected at least 1"):
        export_run(opened, finished[0], widths, tmp_path / "net.slim", store="int8", samples=samples)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "batch_norm", "fixed"),
    [
        ("digits/us-net", Sandwich, "calibrated", (1.0, 0.25)),
        ("digits/s-net", SwitchList, "private", (1.0, 0.75, 0.5, 0.25)),
        ("digits/independent", Fixed, "private", (1.0,)),
        ("digits/naive", SwitchList, "naive", (1.0, 0.75, 0.5, 0.25)),
    ],
)
def test_the_method_decides_sampler_and_batch_norm(name, kind, batch_norm, fixed):
    recipe = read_recipe(name)
    net = new_network(recipe, recipe.task.build())
    chosen = sampler(recipe, net, steps_per_epoch=4)

    assert isinstance(chosen, kind)
    assert net.batch_norm == batch_norm
    assert chosen.fixed == tuple(net.space.uniform(ratio) for ratio in fixed)


def test_a_new_network_is_a_function_of_the_seed():
    recipe = read_recipe("digits/us-net")
    weights = []
    for seed in (0, 0, 1):
        torch.rand(3)
        seeded = recipe.model_copy(update={"train": replace(recipe.train, seed=seed)})
        weights.append(new_network(seeded, recipe.task.build()).state_dict()["model.conv1.weight"])

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_channels_are_sorted_before_training_and_a_run_is_opened_with_the_order_it_learnt(tmp_path):
    changes = [*SMALL, "task.network.name=digits_cnn", "convert.importance=l1"]
    recipe = read_recipe("digits/us-net", changes)
    given = new_network(read_recipe("digits/us-net", changes[:-1]), recipe.task.build()).eval()
    net = new_network(recipe, recipe.task.build()).eval()
    assert {entry.score for entry in net.report.order} == {"l1"}
    assert not torch.equal(net.model.conv1.weight, given.model.conv1.weight)
    [images] = recipe.task.build().example_inputs()
    with torch.no_grad():
        torch.testing.assert_close(net(images), given(images))

    rows = run(recipe, tmp_path / "run", device="cpu")

    opened = open_run(tmp_path / "run")
    widths = name_ratios(recipe.ratios, opened.net.space)
    assert measure(opened.net, opened.task, widths) == rows


def test_facts_are_what_the_data_say():
    settings = read_recipe("digits/us-net").task
    facts = settings.facts(settings.build())

    assert facts.input_size == (1, 8, 8)
    assert len(facts.classes) == 10


def test_an_absent_device_is_a_clear_error():
    with pytest.raises(TrainingError, match=r"device 'gpu' cannot be used: .*; expected auto, cpu or cuda"):
        choose_device("gpu")
