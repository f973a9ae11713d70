"""``slimmable bench``."""

from collections.abc import Sequence

from slimmable.cli.parser import Options
from slimmable.cli.tables import count, memory, write, write_table
from slimmable.errors import RecipeError
from slimmable.record import atomic_write_json, atomic_write_text
from slimmable.report.chart import line_chart
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import backends_from
from slimmable.runtime.bench import Row, bench, record


def command(options: Options) -> int:
    """Time every width of an artifact, show and write what was found."""
    artifact = Artifact(options.artifact)
    rows = bench(
        artifact.path,
        backends=None if options.runtime is None else backends_from(options.runtime),
        batches=_batches(options.batch),
        threads=options.threads,
        rounds=options.rounds,
        memory=options.memory,
    )
    write_table(
        ["runtime", "width", "batch", "MACs", "ms", "quartiles", "examples/s", "memory", "peak"],
        [_shown(row, artifact) for row in rows],
        left=2,
    )
    if options.json:
        atomic_write_json(options.json, record(artifact.path, rows, threads=options.threads))
        write(f"figures: {options.json}")
    if options.plot:
        atomic_write_text(options.plot, plot(rows, artifact))
        write(f"plot: {options.plot}")
    return 0


def plot(rows: Sequence[Row], artifact: Artifact) -> str:
    """Latency over multiply-accumulates, a line for each runtime and batch."""
    macs = {each.name: each.costs["macs"].value / 1e6 for each in artifact.widths}
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(f"{row.backend}, batch {row.batch}", []).append((macs[row.width], row.milliseconds))
    return line_chart(
        {name: sorted(points) for name, points in series.items()},
        title=f"{artifact.name}: latency of its widths",
        x="million multiply-accumulates",
        y="ms",
    )


def _shown(row: Row, artifact: Artifact) -> list[str]:
    stored = artifact.widths[artifact.index(row.width)]
    return [
        row.backend,
        row.width,
        str(row.batch),
        count(int(stored.costs["macs"].value)),
        f"{row.milliseconds:.3f}",
        f"{row.low:.3f} .. {row.high:.3f}",
        f"{row.throughput:.1f}",
        "" if row.memory is None else memory(row.memory.steady),
        "" if row.memory is None else memory(row.memory.peak),
    ]


def _batches(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"--batch {text!r} is no list of sizes; expected whole numbers, such as 1,32") from None
