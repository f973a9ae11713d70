"""What every width is worth and what it costs: measured, and written as JSON and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimmable.core.model import SlimmableModel
from slimmable.cost.analytic import CostModel
from slimmable.errors import CalibrationError
from slimmable.measure.evaluation import evaluate
from slimmable.recipes.widths import NamedWidths
from slimmable.record import atomic_write_json, atomic_write_text, environment
from slimmable.train import Batch, Task

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class WidthFigures:
    """One width.

    Attributes:
        label: Its ratio, or the name it was given.
        widths: Channels by group.
        figures: Of the task's metric, over the test data.
        macs: Multiply-accumulates of one example.
        parameters: Of the extracted network.
        activation_bytes: Peak of live activations of one example.
    """

    label: str
    widths: dict[str, int]
    figures: dict[str, float]
    macs: int
    parameters: int
    activation_bytes: int


def measure(
    net: SlimmableModel, task: Task, widths_list: Sequence[NamedWidths], *, batches: Iterable[Batch] | None = None
) -> list[WidthFigures]:
    """Figures and costs of ``net`` at every width of a list, on the test data of ``task``.

    Args:
        net: A trained network.
        task: With its batches on the network's device.
        widths_list: Widths; the same ones under several names are evaluated once.
        batches: The test data, if they are watched on their way.

    Raises:
        CalibrationError: Widths without statistics; they are named.
    """
    distinct = list(dict.fromkeys(named.widths for named in widths_list))
    require_calibrated(net, widths_list)
    test = task.test_batches() if batches is None else batches
    found = evaluate(net, test, distinct, forward=task.forward, metric_factory=task.metrics)
    figures = dict(zip(distinct, found, strict=True))
    costs = CostModel(net)
    macs, parameters, activations = (
        dict(zip(distinct, map(int, cost(distinct)), strict=True))
        for cost in (costs.macs, costs.parameters, costs.activation_bytes)
    )
    return [
        WidthFigures(
            label=named.label,
            widths=named.widths.to_json(),
            figures=figures[named.widths],
            macs=macs[named.widths],
            parameters=parameters[named.widths],
            activation_bytes=activations[named.widths],
        )
        for named in widths_list
    ]


def uncalibrated(net: SlimmableModel, widths_list: Sequence[NamedWidths]) -> list[NamedWidths]:
    """Those of a list that have no current statistics, and need some."""
    if not net.has_batch_norm or net.batch_norm == "naive":
        return []
    known = set(net.calibrated)
    return [named for named in widths_list if named.widths not in known]


def require_calibrated(net: SlimmableModel, widths_list: Sequence[NamedWidths]) -> None:
    """Pass if every width of a list can be evaluated.

    Raises:
        CalibrationError: Some cannot; they are named.
    """
    missing = [named.label for named in uncalibrated(net, widths_list)]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CalibrationError(
            f"the network has no batch-norm statistics at widths {names}; calibrate them first: "
            "slimmable calibrate RUN --widths LIST, or slimmable.calibrate(net, batches, widths_list)"
        )


def save_json(rows: Sequence[WidthFigures], path: str | Path) -> None:
    """Write the figures with the environment they were measured in."""
    atomic_write_json(path, {"schema": SCHEMA_VERSION, "environment": environment(), "widths": list(rows)})


def save_csv(rows: Sequence[WidthFigures], path: str | Path) -> None:
    """Write the figures and costs as a table, one line for each width."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["width", *names, "macs", "parameters", "activation_bytes"])
    for row in rows:
        figures = [row.figures.get(name, "") for name in names]
        table.writerow([row.label, *figures, row.macs, row.parameters, row.activation_bytes])
    atomic_write_text(path, text.getvalue())
