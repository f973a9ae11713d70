"""Tables on standard output: ruled on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # bench needs tables where the packages of recipes are not installed
    from slimmable.recipes.figures import WidthFigures


def write(text: str) -> None:
    """One or more lines as they are."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """A table; the first ``left`` columns hold text, the others numbers."""
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=not terminal)
    for row in rows:
        table.add_row(*map(Text, row))
    # A pipe has no width that lines could be fitted to.
    Console(highlight=False, width=None if terminal else 10_000).print(table)


def write_figures(rows: Sequence[WidthFigures]) -> None:
    """What widths are worth and cost."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    write_table(
        ["width", *names, "MACs", "parameters", "activations"],
        [
            [
                row.label,
                *(f"{row.figures[name]:.4f}" for name in names),
                count(row.macs),
                f"{row.parameters:,}",
                memory(row.activation_bytes),
            ]
            for row in rows
        ],
    )


def count(number: int) -> str:
    """A count with its unit, to four digits.

    >>> count(300_774_272), count(119_616), count(96)
    ('300.8 M', '119.6 k', '96')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)


def memory(size: int) -> str:
    """Bytes with their unit.

    >>> memory(16_384), memory(5_000_000)
    ('16 KiB', '4.768 MiB')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"
