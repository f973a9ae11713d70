"""Recipes from names, files and changes; and what is said of those that are wrong."""

import pytest
import yaml

from slimmable.errors import RecipeError
from slimmable.recipes import RECIPES, read_recipe, recipe, to_yaml
from slimmable.recipes.reading import merged
from slimmable.train import AdamW, Exponential


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_comes_back_from_yaml(name, tmp_path):
    made = recipe(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(made))

    assert read_recipe(path) == made
    assert read_recipe(name) == made
    assert set(yaml.safe_load(to_yaml(made))["train"]) == set(made.train.__dataclass_fields__)
    assert RECIPES[name].__doc__


def test_a_file_may_name_a_recipe_and_say_only_what_differs(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: digits/us-net\ntrain:\n  epochs: 3\n  lr: 5e-2\nmethod: {n: 3}\n")

    found = read_recipe(path, ["train.epochs=4"])

    base = recipe("digits/us-net")
    assert (found.train.epochs, found.train.lr, found.method.n) == (4, 0.05, 3)
    assert found.task == base.task
    assert found.train.schedule == base.train.schedule


def test_a_file_may_hold_a_whole_configuration(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 2}\n")

    assert read_recipe(path).task.network.name == "digits_cnn"


def test_values_are_yaml():
    found = read_recipe(
        "digits/s-net",
        ["method.switches=[0.5, 1]", "convert.exclude=[conv1]", "train.clip_norm=1e1", "train.weight_decay=.0"],
    )

    assert found.method.switches == (0.5, 1.0)
    assert found.convert.exclude == ("conv1",)
    assert found.train.clip_norm == 10.0
    assert found.ratios == (0.5, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        ["train.schedule.kind=exponential", "train.schedule.ratio=0.9", "train.optimizer.kind=adamw"],
        ["train.schedule.ratio=0.9", "train.schedule.kind=exponential", "train.optimizer={kind: adamw}"],
    ],
)
def test_another_kind_of_section_starts_from_its_own_defaults_in_any_order(changes):
    found = read_recipe("digits/us-net", changes)

    assert found.train.schedule == Exponential(ratio=0.9)
    assert found.train.optimizer == AdamW()


def test_changing_leaves_the_base_as_it_was():
    base = {"a": {"b": 1}}

    assert merged(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=10", "unknown key train.epoch = 10; the nearest valid key is train.epochs"),
        ("epochs=10", "unknown key epochs = 10; the nearest valid key is train.epochs"),
        ("task.data.datset=x", "unknown key task.data.datset = 'x'; the nearest valid key is task.data.dataset"),
        ("task.network.nmae=x", "unknown key task.network.nmae = 'x'; the nearest valid key is task.network.name"),
        ("train.optimizer.betas=[0.9]", "unknown key train.optimizer.betas = [0.9]; the nearest valid key"),
        ("zzz=1", "unknown key zzz = 1; expected one of task, convert, method, train, start, calibration, evaluation"),
        ("train.epochs=ten", "train.epochs is 'ten'; expected a whole number"),
        ("train.epochs='10'", "train.epochs is '10'; expected a whole number"),
        ("train.lr=true", "train.lr is True; expected a number"),
        ("train.distillation=1", "train.distillation is 1; expected true or false"),
        ("task.network.name=3", "task.network.name is 3; expected text"),
        ("convert.exclude=head", "convert.exclude is 'head'; expected a list"),
        ("convert.importance=l2", "convert.importance is 'l2'; expected 'l1', 'filters' or 'batch_norm'"),
        ("train=3", "train is 3; expected keys and values"),
        ("train.epochs=0", "train: TrainSettings.epochs is 0; expected at least 1"),
        ("task.data.dataset=cifar", "expected 'digits', 'cifar10', 'cifar100' or 'folder'; did you mean cifar10"),
        ("task.data.dataset=cifar10", "task.data: ImageDataSettings.root is None"),
        ("train.precision=float16", "train.precision is 'float16'; expected 'float32' or 'bfloat16'; did you mean"),
        ("train.schedule.kind=cosinus", "train.schedule.kind is 'cosinus'; expected one of constant, step, "),
        ("train.schedule=cosine", "train.schedule is 'cosine'; expected keys and values"),
        ("train.schedule.kind=step", "train.schedule.milestones is missing"),
        (
            "method.kind=usnet",
            "method.kind is 'usnet'; expected one of us-net, s-net, independent, naive, pareco, ows, platforms",
        ),
        ("method.n=1", "method.n is 1; expected greater than or equal to 2"),
        ("calibration=null", "us-net's widths have no statistics without it"),
        ("method.kind=naive", "set calibration=null"),
        ("evaluation.widths=half", "evaluation.widths: 'half' in 'half' cannot be read as widths"),
        ("evaluation.widths=true", "evaluation.widths is True; expected text or a number or a list"),
        (
            "evaluation.widths=[0.2]",
            "width ratio 0.2 (method or evaluation.widths) lies outside convert.min_ratio=0.25",
        ),
        ("method={kind: s-net, switches: [0.5, 2]}", "width ratio 2.0"),
        ("train.seed=2026-01-01", "value of no known kind"),
        ("train.lr=[", "the value of train.lr is not YAML"),
        ("train.epochs", "'train.epochs' is no change of a recipe; expected key=value"),
        ("train..lr=1", "is no change of a recipe"),
    ],
)
def test_a_wrong_change_is_named_with_what_was_expected(change, message):
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits/us-net", [change])

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_widths_without_statistics_are_refused():
    with pytest.raises(RecipeError, match=r"evaluation.widths has 0.3, whose batch norm s-net does not train"):
        read_recipe("digits/s-net", ["evaluation.widths=[0.3]"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n", "expected a recipe: keys and values"),
        ("a: [", "is not YAML"),
        ("recipe: 3\n", "recipe is 3"),
        ("recipe: digits/usnet\n", "one of digits/us-net"),
        ("train: {epochs: 1, epochs: 2}\n", "key 'epochs' stands twice"),
        ("method: {n: 4}\n", "expected keys and values, with kind one of"),
        ("convert: {}\n", "train is missing"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("digits/usnet", "one of digits/us-net"), ("qqq", "imagenet/"), ("absent.yaml", "No such file")],
)
def test_an_unknown_recipe_is_named_with_the_nearest(name, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(name)
