"""``slimmable inspect --all``: the coverage table."""

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slimmable.cli.main import INTERRUPTED
from slimmable.cli.parser import Options
from slimmable.cli.tables import write
from slimmable.errors import RecipeError
from slimmable.models.families import ZooModel, zoo
from slimmable.recipes.coverage import CoverageRow, cover
from slimmable.recipes.coverage_record import CoverageRecord
from slimmable.recipes.coverage_table import page, summary
from slimmable.record import atomic_write_text

FAILED = 1


def command(options: Options) -> int:
    """Convert every network of the zoo and write the table; 1 if one of them fails."""
    _require_fitting(options)
    chosen = zoo(options.match.split(",") if options.match else ())
    models = [model for model in chosen if find_spec(model.package)]
    conversion = {"min_ratio": options.min_ratio, "max_ratio": options.max_ratio, "divisor": options.divisor}
    record = CoverageRecord(options=conversion)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if len(models) < len(chosen):
        missing = ", ".join(sorted({model.package for model in chosen if model not in models}))
        console.print(
            f"left out: {len(chosen) - len(models)} of {len(chosen)} networks, of packages not installed ({missing})"
        )
    if options.resume:
        changed = record.take_up(options.json)
        if changed:
            console.print(f"{options.json} was made with other {changed}: every model is measured anew")
    try:
        rows = [_row(model, record, conversion, options.json, console) for model in _watched(models, console)]
    except KeyboardInterrupt:
        cure = "to go on: the same command with --resume" if options.json else "--json FILE keeps what was measured"
        print(f"interrupted; {cure}", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    text = page(record, rows)
    if options.output:
        atomic_write_text(options.output, text)
        write(f"{summary(rows)} The table is in {options.output}.")
    else:
        sys.stdout.write(text)
    return FAILED if any(row.faults for row in rows) else 0


def _require_fitting(options: Options) -> None:
    for name in ("input_size", "exclude"):
        if options[name]:
            raise RecipeError(f"--{name.replace('_', '-')} is for one network; name it instead of --all")
    if options.model:
        raise RecipeError(f"{options.model} and --all: name one network, or all of them with --match to choose some")
    if options.resume and not options.json:
        raise RecipeError("--resume takes up the rows of --json FILE; name that file too")


def _row(
    model: ZooModel, record: CoverageRecord, conversion: dict[str, Any], path: str | None, console: Console
) -> CoverageRow:
    """The row of a model: the record's, or a new one, which is added to the record."""
    if model.name not in record.rows:
        row = cover(model.family, model.name, input_size=model.input_size, options=conversion)
        record.add(row)
        if path:
            record.save(path)
        console.print(_told(row))
    return record.rows[model.name]


def _told(row: CoverageRow) -> str:
    parts = []
    if row.found:
        parts.append(f"{row.found.elastic} of {row.found.layers} layers elastic, {row.found.seconds:.1f} s")
    if row.faults:
        parts.append(f"fails: {'; '.join(row.faults)}")
    return f"{row.model}: {'; '.join(parts)}"


def _watched(models: Sequence[ZooModel], console: Console) -> Iterator[ZooModel]:
    """The models, with a bar on a terminal that says which one is being measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=len(models))
        for model in models:
            bars.update(bar, description=model.name)
            yield model
            bars.advance(bar)
