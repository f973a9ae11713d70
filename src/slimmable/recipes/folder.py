"""A run's folder: what lies where, and how a trained network comes back from it.

::

    recipe.yaml           the complete recipe
    network.json          input size and, of a classifier, classes, as the data gave them
    last.safetensors      the run at the end of its last whole epoch
    record.json           what it did
    curves/               for TensorBoard
    network.safetensors   the trained and calibrated network
    evaluation.json/.csv  figures and costs by width
    found.json            widths that the training found, by name (PareCO, OWS)
    statistics.json       losses of every choice of every width (OWS)
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from slimmable.core.checkpoint import load_network, save_network
from slimmable.core.model import SlimmableModel
from slimmable.errors import CheckpointError, TrainingError
from slimmable.recipes.building import converted
from slimmable.recipes.config import Recipe
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.reading import read_recipe, to_yaml
from slimmable.record import atomic_write_text
from slimmable.train import Task

RECIPE = "recipe.yaml"
FACTS = "network.json"
NETWORK = "network.safetensors"
EVALUATION_JSON = "evaluation.json"
EVALUATION_CSV = "evaluation.csv"


class OpenRun(NamedTuple):
    """A trained network, what it was trained for, and how; ``facts`` rebuild it where the data are not."""

    net: SlimmableModel
    task: Task
    recipe: Recipe
    facts: NetworkFacts


def require_place(folder: Path, recipe: Recipe, *, resume: bool) -> Recipe:
    """Pass if ``recipe`` may be carried out in ``folder``; nothing is written.

    What is evaluated in the end may change in a resumed run, and so may the place of the data.

    Returns:
        The recipe with an absolute path to its data.

    Raises:
        TrainingError: ``folder`` holds a run, and ``resume`` is not set.
        CheckpointError: The run to be resumed had another recipe; the first difference is named.
    """
    task = recipe.task
    if task.root is not None:
        recipe = recipe.model_copy(update={"task": task.at(Path(task.root).expanduser().resolve())})
    path = folder / RECIPE
    if path.exists():
        if not resume:
            raise TrainingError(
                f"{folder} already holds a run; resume it (--resume on the command line, resume=True in Python), or "
                "choose another folder"
            )
        free = {"calibration", "evaluation", *(f"task.{name}" for name in task.harmless)}
        _require_same(read_recipe(path).model_dump(mode="json"), recipe.model_dump(mode="json"), path, free=free)
    elif folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"{folder} is not empty and holds no run ({RECIPE} is missing); choose another folder")
    return recipe


def begin(folder: Path, recipe: Recipe, *, resume: bool) -> Recipe:
    """Write the recipe of a run that is ready to train into its folder, which holds a run from now on.

    Returns:
        The recipe with an absolute path to its data.

    Raises:
        TrainingError: As of :func:`require_place`: another run may have begun there meanwhile.
        CheckpointError: As of :func:`require_place`.
    """
    recipe = require_place(folder, recipe, resume=resume)
    atomic_write_text(folder / RECIPE, to_yaml(recipe))
    return recipe


def open_run(folder: str | Path, *, root: str | Path | None = None) -> OpenRun:
    """The trained network in ``folder``, in evaluation mode, on the CPU.

    The data are not touched until the task is asked for a batch.

    Args:
        folder: Of a finished run.
        root: Where the data lie now, if not where they lay during training.

    Raises:
        CheckpointError: There is no finished run, or its files do not fit together.
    """
    folder = Path(folder)
    if not (folder / RECIPE).exists():
        raise CheckpointError(f"{folder} holds no run: {RECIPE} is missing; expected a folder that train wrote")
    if not (folder / NETWORK).exists():
        raise CheckpointError(
            f"the run in {folder} is not finished; go on with: "
            f"slimmable train {folder / RECIPE} --folder {folder} --resume"
        )
    recipe = read_recipe(folder / RECIPE)
    settings = recipe.task if root is None else recipe.task.at(root)
    facts = NetworkFacts.load(folder / FACTS)
    plain = settings.plain_network(facts)
    net = converted(plain, facts.example_inputs(), options=recipe.convert, method=recipe.method)
    load_network(net, folder / NETWORK)
    return OpenRun(net.eval(), settings.build(), recipe, facts)


def save_trained(net: SlimmableModel, folder: str | Path) -> None:
    """Write the network of a run with all its statistics, in place of the one there."""
    save_network(net, Path(folder) / NETWORK)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        TrainingError: There is no such device.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"device {name!r} cannot be used: {reason}; expected auto, cpu or cuda") from error
    return device


def _require_same(found: Any, asked: Any, path: Path, *, free: Collection[str], key: str = "") -> None:
    if key in free:
        return
    if isinstance(found, dict) and isinstance(asked, dict):
        for name in {**found, **asked}:
            _require_same(found.get(name), asked.get(name), path, free=free, key=f"{key}.{name}" if key else name)
    elif found != asked:
        raise CheckpointError(
            f"the run to be resumed has {key} = {found!r} in {path}, now it is {asked!r}; resume with the recipe of "
            "the run, or train in another folder"
        )
