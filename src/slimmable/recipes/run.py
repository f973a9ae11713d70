"""Train, calibrate, evaluate: a recipe carried out in a folder."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from slimmable.core.model import SlimmableModel
from slimmable.errors import RecipeError
from slimmable.measure.calibration import calibrate
from slimmable.recipes.building import new_network, sampler
from slimmable.recipes.config import Recipe
from slimmable.recipes.figures import WidthFigures, measure, save_csv, save_json
from slimmable.recipes.folder import (
    EVALUATION_CSV,
    EVALUATION_JSON,
    FACTS,
    begin,
    choose_device,
    open_run,
    require_place,
    save_trained,
)
from slimmable.recipes.found import found_widths
from slimmable.recipes.starting import holds_statistics, take_over
from slimmable.recipes.watching import watched
from slimmable.recipes.widths import NamedWidths, name_ratios
from slimmable.train import Task, fit
from slimmable.train.run import CHECKPOINT


def run(
    recipe: Recipe, folder: str | Path, *, resume: bool = False, device: str = "auto", progress: bool = True
) -> list[WidthFigures]:
    """Carry out a recipe: convert, train, calibrate, evaluate on the test data; everything is kept in ``folder``.

    Args:
        recipe: The experiment.
        folder: New or empty, or with ``resume`` that of an interrupted run; see :mod:`slimmable.recipes.folder`.
        resume: Go on where a run of the same recipe stopped; on the CPU it ends with the weights of an uninterrupted
            one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: Show progress, if standard error is a terminal.

    Returns:
        Figures and costs, by the recipe's ``evaluation.widths``.

    Raises:
        TrainingError: The folder holds a run already, or a loss is not finite.
        CheckpointError: The run to be resumed had another recipe.
        DataError: Data are missing or malformed.
        ConversionError: The network cannot be converted as the recipe says.
    """
    folder, place = Path(folder), choose_device(device)
    recipe = require_place(folder, recipe, resume=resume)
    task = recipe.task.build()
    net, facts = new_network(recipe, task), recipe.task.facts(task)
    held = holds_statistics(net)
    if not (resume and (folder / CHECKPOINT).exists()):
        _begin_with(net.to(place), task.to(place), recipe, held=held, progress=progress)
    steps = len(task.train_batches(net, epoch=0, seed=recipe.train.seed))
    chooser = sampler(recipe, net, steps_per_epoch=steps)
    begin(folder, recipe, resume=resume)  # not before all is made: what cannot be made leaves the folder free
    facts.save(folder / FACTS)
    fit(
        net,
        task,
        sampler=chooser,
        settings=recipe.train,
        folder=folder,
        resume=resume,
        device=place,
        progress=progress,
        curves=importlib.util.find_spec("tensorboard") is not None,
    )
    net, task = net.eval(), task.to(place)
    widths = name_ratios(recipe.ratios, net.space)
    widths += found_widths(recipe.method, chooser, net, folder)
    if recipe.calibration is not None and not held:
        calibrate_run(net, task, recipe, widths, progress=progress)
    save_trained(net, folder)
    rows = measure(net, task, widths, batches=watched(task.test_batches(), "evaluating", progress=progress))
    save_json(rows, folder / EVALUATION_JSON)
    save_csv(rows, folder / EVALUATION_CSV)
    return rows


def _begin_with(net: SlimmableModel, task: Task, recipe: Recipe, *, held: bool, progress: bool) -> None:
    """Weights of another run, if the recipe names one; else statistics, if training will not change them."""
    brought = () if recipe.start is None else take_over(net, open_run(recipe.start.run).net, recipe.start)
    missing = [each for each in net.switches if each not in brought]
    if held and missing:
        widths = [NamedWidths(label=str(each), widths=each) for each in missing]
        calibrate_run(net, task, recipe, widths, progress=progress)


def calibrate_run(
    net: SlimmableModel,
    task: Task,
    recipe: Recipe,
    widths: Sequence[NamedWidths],
    *,
    samples: int | None = None,
    progress: bool = True,
) -> None:
    """Measure the statistics of a recipe's network at ``widths`` on its training data, if it has batch norm.

    Args:
        net: The trained network.
        task: With its batches on the network's device.
        recipe: How it was trained: the seed chooses the samples.
        widths: What to calibrate.
        samples: How many training samples; None is the recipe's number, or 2000.
        progress: Show progress, if standard error is a terminal.

    Raises:
        RecipeError: ``samples`` is below 1.
    """
    if samples is None:
        samples = recipe.calibration.samples if recipe.calibration is not None else 2000
    if samples < 1:
        raise RecipeError(f"samples is {samples}; expected at least 1, or none to take the recipe's number")
    if not net.has_batch_norm:
        return
    batches = task.calibration_batches(samples=samples, seed=recipe.train.seed)
    calibrate(net, watched(batches, "calibrating", progress=progress), [named.widths for named in widths])
