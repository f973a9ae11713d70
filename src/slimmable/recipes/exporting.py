"""A run's network on its way to devices: an artifact that tells what the run knows of it."""

import json
from collections.abc import Sequence
from pathlib import Path

from slimmable.errors import DataError, RecipeError, WidthError
from slimmable.export.artifact import Facts, Store, Tables, write_artifact
from slimmable.export.flat import described
from slimmable.export.standalone import FormatName, write
from slimmable.recipes.figures import require_calibrated
from slimmable.recipes.folder import EVALUATION_JSON, OpenRun
from slimmable.recipes.widths import NamedWidths
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import BackendName
from slimmable.runtime.base import Signature
from slimmable.runtime.manifest import Latency


def export_run(
    opened: OpenRun,
    folder: str | Path,
    widths: Sequence[NamedWidths],
    path: str | Path,
    *,
    backends: Sequence[BackendName] = ("onnx",),
    tables: Tables = "float32",
    store: Store = "float32",
    samples: int = 200,
    latencies: str | Path | None = None,
) -> Artifact:
    """Write the network of a run as an artifact, with classes and preprocessing, and what its widths are worth.

    Args:
        opened: The run, from :func:`slimmable.recipes.folder.open_run`.
        folder: Where it lies: figures are read from its ``evaluation.json``.
        widths: Those to store.
        path: The file.
        backends: Runtimes to write graphs for.
        tables: Precision of the folded vectors.
        store: Precision of the weights; ``int8`` finds ranges of activations with training data.
        samples: Training examples for that.
        latencies: What ``slimmable bench`` measured of an artifact of this run; the new one then tells it.

    Raises:
        CalibrationError: The network has no statistics at some of the widths.
        WidthError: Two widths have one name.
        DataError: Figures that cannot be read.
        RecipeError: ``samples`` is below 1.
    """
    if samples < 1:
        raise RecipeError(f"samples is {samples}; expected at least 1, which tell the ranges of activations")
    net, task, recipe, facts = opened
    require_calibrated(net, widths)
    named = {each.label: each.widths for each in widths}
    if len(named) < len(widths):
        raise WidthError(f"two of the widths have one name: {', '.join(each.label for each in widths)}")
    known, timed = figures_of(folder), {} if latencies is None else latencies_of(latencies)
    accuracy = {name: known[its.channels] for name, its in named.items() if its.channels in known}
    return write_artifact(
        net,
        path,
        named,
        example_inputs=facts.example_inputs(),
        backends=backends,
        tables=tables,
        store=store,
        calibration=task.calibration_batches(samples=samples, seed=0) if store == "int8" else (),
        facts=Facts(
            name=recipe.task.network.name,
            accuracy=accuracy,
            latencies={name: timed[its.channels] for name, its in named.items() if its.channels in timed},
            labels=facts.classes or None,
            preprocessing=recipe.task.preprocessing(facts),
        ),
    )


def export_alone(opened: OpenRun, width: NamedWidths, path: str | Path, *, format: FormatName) -> tuple[Path, ...]:  # noqa: A002  as users say it
    """Write the network of a run at one width as an ordinary file.

    Args:
        opened: The run.
        width: Which width.
        path: The file.
        format: One of :data:`slimmable.export.standalone.FORMATS`.

    Returns:
        The file, and those that the format lays beside it.

    Raises:
        CalibrationError: The network has no statistics at the width.
        ExtractionError: The network cannot be written in this format.
    """
    net, _, _, facts = opened
    require_calibrated(net, [width])
    plain, example = net.extract(width.widths, fold_batch_norm=True).eval(), facts.example_inputs()
    inputs, outputs = described(plain, example)
    signature = Signature(inputs=tuple(each.name for each in inputs), outputs=tuple(each.name for each in outputs))
    return write(plain, example, path, format=format, signature=signature)


def figures_of(folder: str | Path) -> dict[tuple[int, ...], dict[str, float]]:
    """Figures of merit by channels, as a run's last evaluation found them; none where there was no evaluation.

    Raises:
        DataError: The file is damaged.
    """
    path = Path(folder) / EVALUATION_JSON
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["widths"]
        return {tuple(row["widths"].values()): dict(row["figures"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as the figures of a run: {error!r}") from error


def latencies_of(path: str | Path) -> dict[tuple[int, ...], list[Latency]]:
    """Latencies by channels, as ``slimmable bench`` wrote them.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        device = f"{value['environment']['processor']}, {value['environment']['cores']} cores"
        found: dict[tuple[int, ...], list[Latency]] = {}
        for row in value["rows"]:
            latency = Latency(
                backend=row["backend"],
                device=device,
                threads=value["environment"]["threads"],
                batch=row["batch"],
                milliseconds=row["milliseconds"],
            )
            found.setdefault(tuple(row["widths"].values()), []).append(latency)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as figures of slimmable bench: {error!r}") from error
    return found
