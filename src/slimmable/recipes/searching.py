"""Search on a trained network: which widths are worth most within budgets, and what they are worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.errors import RecipeError
from slimmable.measure.calibration import calibrate
from slimmable.measure.evaluation import evaluate
from slimmable.recipes.figures import WidthFigures, measure
from slimmable.recipes.folder import OpenRun
from slimmable.recipes.found import STATISTICS, for_platforms
from slimmable.recipes.methods import OwsMethod
from slimmable.recipes.run import calibrate_run
from slimmable.recipes.widths import NamedWidths
from slimmable.record import atomic_write_json, environment
from slimmable.search import (
    Adaptation,
    Alternatives,
    Budget,
    ChoiceLosses,
    Front,
    Objective,
    Ows,
    Platform,
    Point,
    additive,
    bayesian,
    evolution,
    greedy,
    nsga2,
    random_search,
)
from slimmable.train import Task

SearchMethod = Literal["pareco-posterior", "ows", "aows", "nsga2", "evolution", "greedy", "random"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How to search.

    Attributes:
        method: ``ows`` and ``aows`` learn what each channel count is worth and solve for the budget exactly; the others
            evaluate widths one by one.
        trials: Most widths that are evaluated; ``ows`` and ``aows`` draw as many, and evaluate the widest and what they
            found besides.
        samples: Training images that calibrate each of them.
        choices: Most channel counts of each width, for ``ows`` and ``aows``.
        seed: Determines every draw.
        progress: Show a bar.
    """

    method: SearchMethod = "evolution"
    trials: int = 200
    samples: int = 500
    choices: int = 14
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.method not in get_args(SearchMethod):
            raise RecipeError(
                f"there is no search {self.method!r}; expected one of {', '.join(get_args(SearchMethod))}"
            )
        for name in ("trials", "samples"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """All that decides what a search comes to."""
        return {name: value for name, value in asdict(self).items() if name != "progress"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        points: The best widths for each set of budgets, by name.
        front: All that was found that nothing else dominates; empty for ``ows`` and ``aows``.
        evaluations: Widths evaluated.
        figures: What the points are worth on the test images, and what they cost.
    """

    points: dict[str, Point]
    front: tuple[Point, ...] = ()
    evaluations: int = 0
    figures: tuple[WidthFigures, ...] = field(default_factory=tuple)


class HeldOutLoss:
    """Loss of widths on held-out images after calibration: what searches minimise, never on the test images.

    Where a task has no figure called ``loss`` it is the figure that matters most, turned so that less is better.

    Args:
        net: The trained network; it comes back as it was.
        task: With its batches on the network's device.
        samples: Training images that calibrate.
        seed: Chooses them, the same for all widths.
    """

    def __init__(self, net: SlimmableModel, task: Task, *, samples: int, seed: int) -> None:
        self.net, self.task, self.samples, self.seed = net, task, samples, seed
        self.evaluations = 0

    def __call__(self, widths_list: Sequence[Widths]) -> list[float]:
        """The mean loss of each."""
        net, task = self.net, self.task
        self.evaluations += len(widths_list)
        with _statistics_kept(net):
            calibrate(net, task.calibration_batches(samples=self.samples, seed=self.seed), list(widths_list))
            batches = task.validation_batches()
            found = evaluate(net, batches, widths_list, forward=task.forward, metric_factory=task.metrics)
        if all("loss" in figures for figures in found):
            return [figures["loss"] for figures in found]
        sign = -1 if task.higher_is_better else 1
        return [sign * figures[task.metric] for figures in found]


@contextmanager
def _statistics_kept(net: SlimmableModel) -> Iterator[None]:
    """Whatever is calibrated inside the context is forgotten after it: tables, their values and what they belong to."""
    kept = net.stored
    tables = [table for widths in kept if (table := net.table(widths)) is not None]
    before = [(table, table.version, table.known) for table in tables]
    values = [(buffer, buffer.clone()) for buffer in net.tables.buffers()]
    try:
        yield
    finally:
        net.drop_tables(kept)
        for table, version, known in before:
            table.version, table.known = version, known
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def search(opened: OpenRun, folder: Path, budgets: Mapping[str, Sequence[Budget]], settings: SearchSettings) -> Found:
    """The best widths of a run's network within each of several sets of budgets; the network comes back as it was.

    Args:
        opened: The run, its network and task on one device.
        folder: Of the run, where statistics of its training may lie.
        budgets: Budgets by name of what they are for; all of one set have to be kept together.
        settings: How to search.

    Raises:
        SearchError: A budget that no widths keep to (the least cost is stated), or a cost that is no sum over layers
            with ``ows`` and ``aows``.
        RecipeError: The run was trained at fixed widths only.
    """
    net, task, recipe, _ = opened
    if net.switches or net.batch_norm == "naive":
        raise RecipeError(
            f"the run was trained by {recipe.method.kind} at fixed widths; a search needs a network of any width, "
            "trained by us-net, pareco or ows"
        )
    objective = HeldOutLoss(net, task, samples=settings.samples, seed=recipe.train.seed)
    if settings.method in ("ows", "aows"):
        points, front = _by_statistics(opened, folder, budgets, settings, objective), ()
    else:
        points, front = _by_trials(net, budgets, settings, objective)
    named = [NamedWidths(label=name, widths=point.widths) for name, point in points.items()]
    with _statistics_kept(net):
        calibrate_run(net, task, recipe, named, progress=settings.progress)
        figures = measure(net, task, named)
    return Found(points=points, front=front, evaluations=objective.evaluations, figures=tuple(figures))


def _by_trials(
    net: SlimmableModel, budgets: Mapping[str, Sequence[Budget]], settings: SearchSettings, objective: Objective
) -> tuple[dict[str, Point], tuple[Point, ...]]:
    """One search for each set of budgets."""
    method = {
        "pareco-posterior": bayesian,
        "nsga2": nsga2,
        "evolution": evolution,
        "random": random_search,
        "greedy": greedy,
    }[settings.method]
    seed = {} if settings.method == "greedy" else {"seed": settings.seed}
    points: dict[str, Point] = {}
    everything: list[Point] = []
    for name, these in budgets.items():
        front = method(net.space, objective, these, trials=settings.trials, progress=settings.progress, **seed)
        points[name] = front.best({budget.cost.name: budget.most for budget in these})
        everything += front
    return points, tuple(Front(everything))


def _by_statistics(
    opened: OpenRun,
    folder: Path,
    budgets: Mapping[str, Sequence[Budget]],
    settings: SearchSettings,
    objective: HeldOutLoss,
) -> dict[str, Point]:
    """Exact solutions for what each channel count adds to the loss, known from training or found by evaluation."""
    [cost, *others] = {id(budget.cost): budget.cost for these in budgets.values() for budget in these}.values()
    if others or any(len(these) != 1 for these in budgets.values()):
        raise RecipeError(f"{settings.method} solves for one budget of one cost at a time; state a single --budget")
    method = opened.recipe.method
    most = method.choices if isinstance(method, OwsMethod) else settings.choices
    alternatives = Alternatives.of(opened.net.space, most=most)
    tables = additive(cost, alternatives)
    share = 1 / len(budgets)
    platforms = tuple(
        Platform(name=name, budget=these[0].most, importance=share, sampling=share) for name, these in budgets.items()
    )
    known = folder / STATISTICS
    if settings.method == "ows" and isinstance(method, OwsMethod) and known.exists():
        state = json.loads(known.read_text(encoding="utf-8"))["statistics"]
        losses = ChoiceLosses(alternatives.sizes, window=state["window"])
        losses.load_state_dict(state)
    else:
        adaptation = None
        if settings.method == "aows":
            adaptation = Adaptation(
                cost=tables, platforms=platforms, warm_up=settings.trials // 5, steps=max(settings.trials, 2)
            )
        sampler = Ows(alternatives, window=settings.trials, adaptation=adaptation, seed=settings.seed)
        losses = _gathered(sampler, settings.trials, objective)
    found = for_platforms(alternatives, losses.unary(), tables, platforms)
    values = objective([named.widths for named in found])
    return {
        named.label: Point(widths=named.widths, costs={cost.name: float(cost([named.widths])[0])}, loss=loss)
        for named, loss in zip(found, values, strict=True)
    }


def _gathered(sampler: Ows, trials: int, objective: HeldOutLoss) -> ChoiceLosses:
    """The sampler's statistics, fed with evaluations instead of training losses."""
    [widest] = objective([sampler.fixed[0]])
    for step in range(trials):
        drawn = list(sampler.ask(step)[1:-1])
        sampler.tell(sampler.fixed[0], widest)
        for widths, loss in zip(drawn, objective(drawn), strict=True):
            sampler.tell(widths, loss)
    return sampler.losses


def save_found(found: Found, path: str | Path, facts: dict[str, Any]) -> None:
    """Write what was found as JSON, and beside it the widths alone, as ``--widths`` and ``method.widths`` read them.

    Args:
        found: What a search came to.
        path: The JSON file; the widths lie in ``NAME-widths.json``.
        facts: What else belongs into the file.
    """
    path = Path(path)
    points = {name: point.to_json() for name, point in found.points.items()}
    content = {
        **facts,
        "environment": environment(),
        "evaluations": found.evaluations,
        "points": points,
        "figures": list(found.figures),
        "front": [point.to_json() for point in found.front],
    }
    atomic_write_json(path, content)
    widths = {name: point.widths.to_json() for name, point in found.points.items()}
    atomic_write_json(path.with_name(f"{path.stem}-widths.json"), widths)
