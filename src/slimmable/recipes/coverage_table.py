"""The coverage table as a page of Markdown."""

from collections.abc import Sequence
from statistics import median

from slimmable.recipes.coverage import BATCH, RANDOM_WIDTHS, Coverage, CoverageRow
from slimmable.recipes.coverage_record import CoverageRecord

REASONS = 3
"""Reasons shown for a model; those left out are counted."""

_LEGEND = (
    "*Elastic layers* are those with an input or output that varies, of all convolution, linear and embedding layers "
    "that the network runs. *MACs* are multiply-accumulates of one input of the size beside them, at the smallest and "
    "at the largest widths (`≥` where an operator is not known and not counted). *Seconds* are of one conversion, on "
    f"{BATCH} inputs of that size. *Fixed* says why layers keep their width; the output always does, and is not "
    f"listed. *Checks* were made at the narrowest and at {RANDOM_WIDTHS} random widths: full width is the original bit "
    "for bit, the network runs, the extracted network gives the same output (`exact`: bit for bit; otherwise the "
    "largest difference, relative to the largest output), and MACs and parameters by formula equal those that PyTorch "
    "counts on the extracted network."
)

_COLUMNS = ("family", "model", "input", "elastic layers", "groups", "MACs", "seconds", "fixed", "checks")
_NUMBERS = ("elastic layers", "groups", "MACs", "seconds")


def page(record: CoverageRecord, rows: Sequence[CoverageRow]) -> str:
    """A page: what the columns mean, the summary, one row for each model by family, and where it was measured."""
    ordered = sorted(rows, key=lambda row: (row.family.lower(), row.model))
    lines = [
        "# Coverage",
        "",
        "What `slimmable.convert` makes of networks that people have, as they are published and without a change. "
        "Written by `slimmable inspect --all`; do not edit.",
        "",
        summary(ordered),
        "",
        _LEGEND,
        "",
        _line(_COLUMNS),
        _line(["---:" if column in _NUMBERS else "---" for column in _COLUMNS]),
        *(_line(_cells(row)) for row in ordered),
        "",
        _measured_with(record),
    ]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[CoverageRow]) -> str:
    """How many models of how many families, how long conversion took, and which stay behind.

    >>> summary([CoverageRow(family="ours", model="net", faults=("ValueError: odd",))])
    '1 model of 1 family; 1 fails: net.'
    """
    found = {row.model: row.found for row in rows if row.found}
    families = len({row.family for row in rows})
    parts = [f"{_counted(len(rows), 'model', 'models')} of {_counted(families, 'family', 'families')}"]
    if found:
        seconds = [each.seconds for each in found.values()]
        whole = sum(each.elastic == each.layers for each in found.values())
        parts.append(f"every layer is elastic in {whole}")
        parts.append(f"conversion takes {median(seconds):.1f} s in the median and {max(seconds):.1f} s at most")
        none = [model for model, each in found.items() if not each.elastic]
        parts.append(f"no layer is elastic in {_named(none)}" if none else "none is without an elastic layer")
    failing = [row.model for row in rows if row.faults]
    if failing:
        parts.append(f"{len(failing)} {'fails' if len(failing) == 1 else 'fail'}: {_named(failing)}")
    return "; ".join(parts) + "."


def _cells(row: CoverageRow) -> list[str]:
    found = row.found
    name = f"`{row.model}`"
    if found is None:
        return [row.family, name, *([""] * 6), _checks(row)]
    return [
        row.family,
        name,
        "×".join(map(str, found.input_size)),
        f"{found.elastic} / {found.layers}",
        str(found.groups),
        ("≥ " if found.uncounted else "") + " – ".join(map(_count, found.macs)),
        f"{found.seconds:.1f}",
        _fixed(found),
        _checks(row),
    ]


def _fixed(found: Coverage) -> str:
    shown = list(found.fixed[:REASONS])
    if len(found.fixed) > REASONS:
        shown.append(f"and {_counted(len(found.fixed) - REASONS, 'reason', 'reasons')} more")
    return "; ".join(shown)


def _checks(row: CoverageRow) -> str:
    if row.faults:
        return "**fails**: " + "; ".join(row.faults)
    deviation = row.found.deviation if row.found else 0.0
    return f"to {deviation:.0e}" if deviation else "exact"


def _measured_with(record: CoverageRecord) -> str:
    where = record.environment
    packages = where["packages"]
    versions = [f"{name} {version}" for name, version in (packages.items() if isinstance(packages, dict) else ())]
    threads = _counted(int(str(where["threads"])), "thread", "threads")
    options = ", ".join(f"{name} {value}" for name, value in record.options.items())
    return (
        f"Measured with slimmable {where['slimmable']} (sources {record.code}), {', '.join(versions)}, Python "
        f"{where['python']} on {where['processor']}, {threads}; {options}."
    )


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _named(models: Sequence[str]) -> str:
    return ", ".join(models)


def _count(number: int) -> str:
    return f"{number / 1e9:.3g} G" if number >= 1e9 else f"{number / 1e6:.3g} M"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
