"""Searches on a trained network: they keep their budgets, and leave the network as it was."""

import json

import pytest
import torch

from slimmable import CostModel
from slimmable.cost.costs import NamedCost, closed_form
from slimmable.errors import RecipeError, SearchError
from slimmable.measure.calibration import calibrate
from slimmable.measure.evaluation import evaluate
from slimmable.recipes import open_run, read_recipe, run
from slimmable.recipes.searching import HeldOutLoss, SearchSettings, save_found, search
from slimmable.search import Budget
from tests.unit.recipes.conftest import SMALL

METHODS = ["pareco-posterior", "ows", "aows", "nsga2", "evolution", "greedy", "random"]
TRIALS = {"pareco-posterior": 21, "greedy": 16}
"""The warm-up of the one takes twenty; the other goes down five widths step by step."""


def quick(method, **how):
    return SearchSettings(method=method, **{"trials": TRIALS.get(method, 6), "samples": 32, "choices": 3, **how})


def everything(net):
    """All that a search could change."""
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items() if isinstance(tensor, torch.Tensor)}
    return tensors, (net.widths, net.stored, net.calibrated, [module.training for module in net.modules()])


def assert_as_before(net, before):
    tensors, rest = everything(net)
    assert rest == before[1]
    assert all(tensors[name].equal(before[0][name]) for name in before[0])


@pytest.mark.parametrize("method", METHODS)
def test_every_search_keeps_its_budget_and_leaves_the_network_as_it_was(finished, opened, method):
    net = opened.net
    before = everything(net)
    budget = Budget(cost=closed_form(net, "macs"), most=6e5)

    found = search(opened, finished[0], {"best": [budget]}, quick(method))

    assert_as_before(net, before)
    point = found.points["best"]
    assert list(found.points) == ["best"]
    assert point.costs == {"macs": CostModel(net).macs([point.widths])[0]}
    assert point.costs["macs"] <= 6e5
    [row] = found.figures
    assert (row.label, row.widths, row.macs) == ("best", point.widths.to_json(), point.costs["macs"])
    if method in ("ows", "aows"):
        assert found.evaluations == 6 + 1 + 1, "the widest and what was found come in addition"
        assert not found.front
    else:
        assert found.evaluations <= quick(method).trials
        assert point in found.front
        assert all(other.loss >= point.loss for other in found.front if other.costs["macs"] <= 6e5)


def test_figures_are_those_after_calibration_as_of_the_recipe(finished, opened):
    net, task, recipe, _ = opened
    budget = Budget(cost=closed_form(net, "macs"), most=6e5)

    found = search(opened, finished[0], {"best": [budget]}, quick("random"))

    widths = found.points["best"].widths
    batches = task.calibration_batches(samples=recipe.calibration.samples, seed=recipe.train.seed)
    calibrate(net, batches, [widths])
    expected = evaluate(net, task.test_batches(), [widths], forward=task.forward, metric_factory=task.metrics)
    assert [row.figures for row in found.figures] == expected


def test_the_objective_is_the_loss_on_held_out_images_after_calibration(opened):
    net, task, *_ = opened
    widths_list = [net.space.uniform(0.4), net.space.largest]
    objective = HeldOutLoss(net, task, samples=64, seed=5)
    before = everything(net)

    found = objective(widths_list)

    assert_as_before(net, before)
    assert objective.evaluations == 2
    calibrate(net, task.calibration_batches(samples=64, seed=5), widths_list)
    expected = []
    for widths in widths_list:
        total = count = 0.0
        for batch in task.validation_batches():
            with torch.no_grad(), net.at(widths):
                losses = torch.nn.functional.cross_entropy(net(batch.images), batch.labels, reduction="sum")
            total, count = total + float(losses), count + len(batch.labels)
        expected.append(total / count)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("higher", [True, False])
def test_without_a_loss_the_figure_that_matters_most_is_made_better(opened, monkeypatch, higher):
    net, task, *_ = opened

    class Score:
        def update(self, outputs, batch):
            self.value = 2.0

        def compute(self):
            return {"score": self.value}

    monkeypatch.setattr(task, "metrics", Score)
    monkeypatch.setattr(type(task), "metric", "score")
    monkeypatch.setattr(type(task), "higher_is_better", higher)
    assert HeldOutLoss(net, task, samples=32, seed=0)([net.space.largest]) == [-2.0 if higher else 2.0]


def test_the_network_comes_back_even_if_an_evaluation_fails(opened, monkeypatch):
    net, task, *_ = opened
    before = everything(net)

    def broken():
        raise OSError("the disk is gone")

    monkeypatch.setattr(task, "validation_batches", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        HeldOutLoss(net, task, samples=32, seed=0)([net.space.largest, net.space.uniform(0.4)])
    assert_as_before(net, before)


def test_several_budgets_are_kept_together_and_several_sets_apart(finished, opened):
    net = opened.net
    macs, memory = closed_form(net, "macs"), closed_form(net, "peak_memory")
    least = float(memory([net.space.smallest])[0])
    both = [Budget(cost=macs, most=1e6), Budget(cost=memory, most=2 * least)]
    wide = [Budget(cost=macs, most=1.5e6), Budget(cost=memory, most=4 * least)]

    found = search(opened, finished[0], {"watch": both, "phone": wide}, quick("evolution"))

    for name, budgets in (("watch", both), ("phone", wide)):
        point = found.points[name]
        for budget in budgets:
            assert point.costs[budget.cost.name] == budget.cost([point.widths])[0] <= budget.most
    assert [row.label for row in found.figures] == ["watch", "phone"]


def test_statistics_of_training_are_used_instead_of_evaluations(found_by):
    """With the budgets that training had, what comes out is what training found."""
    folder, recipe, _ = found_by["ows"]
    opened = open_run(folder)
    cost = closed_form(opened.net, "macs")
    budgets = {each.name: [Budget(cost=cost, most=each.budget)] for each in recipe.method.platforms}

    found = search(opened, folder, budgets, quick("ows"))

    named = json.loads((folder / "found.json").read_text())
    assert {name: point.widths.to_json() for name, point in found.points.items()} == named
    assert found.evaluations == len(budgets), "what was found, and nothing else"
    elsewhere = search(opened, folder / "nowhere", budgets, quick("ows"))
    assert elsewhere.evaluations == 6 + 1 + len(budgets)


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_that_no_widths_keep_states_the_least_cost(finished, opened, method):
    budget = Budget(cost=closed_form(opened.net, "macs"), most=1e5)
    with pytest.raises(SearchError, match=r"119616|119,?616"):
        search(opened, finished[0], {"best": [budget]}, quick(method))


def test_exact_searches_take_one_budget_of_one_cost_that_is_a_sum(finished, opened):
    macs, parameters = (closed_form(opened.net, name) for name in ("macs", "parameters"))
    folder = finished[0]
    for budgets in (
        {"best": [Budget(cost=macs, most=1e6), Budget(cost=parameters, most=1e5)]},
        {"a": [Budget(cost=macs, most=1e6)], "b": [Budget(cost=parameters, most=1e5)]},
        {"best": [Budget(cost=macs, most=1e6), Budget(cost=macs, most=2e6)]},
    ):
        with pytest.raises(RecipeError, match="ows solves for one budget of one cost at a time; state a single"):
            search(opened, folder, budgets, quick("ows"))
    square = NamedCost(name="square", unit="", of=lambda many: macs(many).astype(float) ** 2)
    with pytest.raises(SearchError, match="square is no sum of terms"):
        search(opened, folder, {"best": [Budget(cost=square, most=1e12)]}, quick("aows"))


def test_a_run_at_fixed_widths_is_refused(tmp_path):
    changes = [*SMALL[:3], "method.switches=[0.5,1.0]"]
    run(read_recipe("digits/s-net", changes), tmp_path / "run", device="cpu", progress=False)
    opened = open_run(tmp_path / "run")
    budget = Budget(cost=closed_form(opened.net, "macs"), most=1e6)
    with pytest.raises(RecipeError, match=r"trained by s-net at fixed widths; a search needs .* us-net, pareco or ows"):
        search(opened, tmp_path / "run", {"best": [budget]}, quick("random"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "annealing"}, "there is no search 'annealing'; expected one of pareco-posterior, ows"),
        ({"trials": 0}, "trials is 0; expected at least 1"),
        ({"samples": 0}, "samples is 0; expected at least 1"),
    ],
)
def test_wrong_settings_are_refused(how, message):
    with pytest.raises(RecipeError, match=message):
        SearchSettings(**how)


def test_results_are_kept_with_all_settings_and_the_widths_alone_beside_them(finished, opened, tmp_path):
    settings = quick("greedy", seed=7, progress=False)
    budget = Budget(cost=closed_form(opened.net, "macs"), most=6e5)
    found = search(opened, finished[0], {"best": [budget]}, settings)

    save_found(found, tmp_path / "mine.txt", {**settings.to_json(), "budgets": ["macs<=600k"]})

    kept = json.loads((tmp_path / "mine.txt").read_text())
    assert {name: kept[name] for name in ("method", "trials", "samples", "choices", "seed")} == settings.to_json()
    assert kept["budgets"] == ["macs<=600k"]
    assert kept["environment"]["packages"]
    assert kept["evaluations"] == found.evaluations
    assert kept["points"] == {"best": found.points["best"].to_json()}
    assert kept["front"] == [point.to_json() for point in found.front]
    assert kept["figures"][0]["figures"] == found.figures[0].figures
    widths = json.loads((tmp_path / "mine-widths.json").read_text())
    assert widths == {"best": found.points["best"].widths.to_json()}
