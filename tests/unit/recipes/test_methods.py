"""Methods that find widths, carried out on digits from the recipe to what they found."""

import json

import pytest
from safetensors.torch import load_file

from slimmable import CostModel
from slimmable.errors import RecipeError, SearchError
from slimmable.recipes import open_run, read_recipe, run
from slimmable.recipes.building import new_network, sampler
from slimmable.recipes.found import known_widths
from slimmable.search.ows import Ows
from slimmable.search.pareco import PareCo
from slimmable.search.tables import Alternatives
from slimmable.train import DrawnSwitches, SwitchList, loop
from tests.unit.recipes.conftest import METHODS, SMALL


@pytest.mark.parametrize("kind", METHODS)
def test_what_training_found_is_kept_calibrated_and_evaluated(found_by, kind):
    folder, recipe, rows = found_by[kind]

    named = json.loads((folder / "found.json").read_text())
    assert [row.label for row in rows] == ["0.5", *named]
    assert [row.widths for row in rows[1:]] == list(named.values())
    saved = json.loads((folder / "evaluation.json").read_text())["widths"]
    assert [row["widths"] for row in saved[1:]] == list(named.values())
    opened = open_run(folder)
    shown = known_widths(folder, recipe, opened.net)
    assert [each.label for each in shown] == [row.label for row in rows]
    assert {each.widths for each in shown} <= set(opened.net.calibrated)


def test_the_front_of_pareco_comes_from_its_history_and_is_small(found_by):
    folder, recipe, rows = found_by["pareco"]
    record = json.loads((folder / "record.json").read_text())

    front = rows[1:]
    assert 1 <= len(front) <= recipe.method.front
    assert [row.label for row in front] == [f"front-{place}" for place in range(len(front))]
    assert [row.macs for row in front] == sorted(row.macs for row in front)
    assert record["sampler"]["sampler"] == "pareco"
    assert not (folder / "statistics.json").exists()


def test_the_platforms_of_ows_keep_their_budgets_and_its_statistics_are_kept(found_by):
    folder, recipe, rows = found_by["ows"]

    budgets = {platform.name: platform.budget for platform in recipe.method.platforms}
    assert list(budgets) == [row.label for row in rows[1:]]
    assert all(row.macs <= budgets[row.label] for row in rows[1:])
    assert rows[1].macs <= rows[2].macs
    kept = json.loads((folder / "statistics.json").read_text())
    net = open_run(folder).net
    assert kept["channels"] == [list(these) for these in Alternatives.of(net.space, most=3).channels]
    steps = sum(entry["steps"] for entry in json.loads((folder / "record.json").read_text())["history"])
    assert [sum(map(len, choices)) for choices in kept["statistics"]["losses"]] == [steps] * len(kept["channels"])


@pytest.mark.parametrize("kind", METHODS)
def test_a_resumed_run_ends_as_an_uninterrupted_one(found_by, kind, tmp_path, monkeypatch):
    folder, recipe, rows = found_by[kind]

    def saved_then_interrupted(state, path, *, settings):
        save(state, path, settings=settings)
        raise KeyboardInterrupt

    save = loop.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", saved_then_interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run" / "found.json").exists()

    again = run(recipe, tmp_path / "run", device="cpu", progress=False, resume=True)

    assert again == rows
    expected, found = (load_file(where / "network.safetensors") for where in (folder, tmp_path / "run"))
    assert set(found) == set(expected)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert (tmp_path / "run" / "found.json").read_text() == (folder / "found.json").read_text()


def test_one_network_for_several_platforms_is_trained_at_their_widths(found_by, tmp_path):
    """The widths that OWS found are read from its file; the file is not needed any more afterwards."""
    source = tmp_path / "widths.json"
    source.write_text((found_by["ows"][0] / "found.json").read_text())
    named = json.loads(source.read_text())
    net = open_run(found_by["ows"][0]).net
    ends = {"small": net.space.smallest.to_json(), "large": net.space.largest.to_json(), "again": named["watch"]}
    source.write_text(json.dumps({**named, **ends}))
    changes = [*SMALL[:3], "method.kind=platforms", f"method.widths={source}", "method.n=4", "calibration=null"]
    recipe = read_recipe("digits/us-net", changes)
    source.unlink()

    rows = run(recipe, tmp_path / "run", device="cpu", progress=False)

    assert [row.label for row in rows] == [*named, *ends]
    assert [row.widths for row in rows] == [*named.values(), *ends.values()]
    opened = open_run(tmp_path / "run")
    assert opened.net.batch_norm == "private"
    assert len(opened.net.switches) == len({tuple(each.items()) for each in recipe.method.widths.values()})
    assert [each.label for each in known_widths(tmp_path / "run", opened.recipe, opened.net)] == [*named, *ends]
    state = json.loads((tmp_path / "run" / "record.json").read_text())["sampler"]
    assert state["sampler"] == "drawn_switches"
    macs = CostModel(opened.net).macs(opened.net.switches)
    assert sorted({row.macs for row in rows}) == sorted(set(macs.tolist()))


WIDTHS = 'method.widths={"a": {"x": 8}, "b": {"x": 16}, "c": {"x": 24}}'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (METHODS["ows"][:2] + METHODS["ows"][3:], r"train\.distillation is true; ows compares losses .* set train\."),
        (["method.kind=ows", "train.distillation=false"], r"method\.platforms is missing"),
        (
            [
                *METHODS["ows"][:3],
                "method.platforms=[{name: a, budget: 1, importance: 1, sampling: 1}, "
                "{name: a, budget: 2, importance: 1, sampling: 0}]",
            ],
            "two platforms have one name: a, a",
        ),
        (
            [*METHODS["ows"][:3], "method.platforms=[{name: a, budget: 1, importance: 1, sampling: 1, smapling: 1}]"],
            r"unknown key method\.platforms\.0\.smapling = 1; the nearest valid key is method\.platforms\.0\.sampling",
        ),
        ([*METHODS["ows"], "method.cost=flops"], "there is no cost called 'flops'"),
        ([*METHODS["pareco"], "calibration=null"], "pareco's widths have no statistics without it"),
        (["method.kind=platforms", "method.widths=absent.json"], r"absent\.json cannot be read as widths by name"),
        (["method.kind=platforms", WIDTHS, "method.weights={a: 1}"], "weights names a; expected .*: a, b, c"),
        (["method.kind=platforms", WIDTHS, "method.weights={a: 1, b: 1, c: 1}", "method.n=null"], "n is null"),
        (["method.kind=platforms", WIDTHS, "evaluation.widths=0.5"], "expected null, for the widths of all platforms"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("digits/us-net", changes)


def test_a_budget_that_no_widths_keep_is_refused_before_training(tmp_path):
    changes = [*SMALL, *METHODS["ows"][:3], "method.platforms=[{name: a, budget: 1e5, importance: 1, sampling: 1}]"]
    with pytest.raises(SearchError, match="no widths cost at most 100000: the least cost is 119616; raise the budget"):
        run(read_recipe("digits/us-net", changes), tmp_path / "run", device="cpu", progress=False)


def test_the_method_decides_the_sampler(opened):
    widths = {
        name: opened.net.space.uniform(ratio).to_json()
        for name, ratio in (("a", 0.25), ("b", 0.5), ("c", 0.75), ("d", 1.0))
    }
    text = f"method.widths={json.dumps(widths)}"
    weights = "method.weights={a: 1, b: 5, c: 2, d: 1}"
    for changes, kind in (
        (METHODS["pareco"], PareCo),
        (METHODS["ows"], Ows),
        ([*METHODS["ows"], "method.adaptive=true", "method.warm_up_epochs=0.5"], Ows),
        (["method.kind=platforms", text, weights], DrawnSwitches),
        (["method.kind=platforms", text, "method.n=null"], SwitchList),
    ):
        recipe = read_recipe("digits/us-net", [*SMALL[:3], *changes])
        chosen = sampler(recipe, new_network(recipe, recipe.task.build()), steps_per_epoch=4)
        assert isinstance(chosen, kind)
        if isinstance(chosen, DrawnSwitches):
            by_width = dict(zip(chosen.between, chosen.weights, strict=True))
            assert {each.to_json()["conv1"]: weight for each, weight in by_width.items()} == {16: 5.0, 24: 2.0}
        if isinstance(chosen, Ows) and chosen.adaptation is not None:
            assert (chosen.adaptation.warm_up, chosen.adaptation.steps) == (2, 4)
