"""Lists of widths as people write them; no torch here."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import WidthError

_EXPECTED = "expected ratios such as 0.5, 0.25,0.5,1.0 or 0.25:1.0:0.05"


@dataclass(frozen=True, kw_only=True)
class NamedWidths:
    """Widths and what they are called: their ratio, or the name given in a file."""

    label: str
    widths: Widths


def parse_ratios(value: str | float | Sequence[float]) -> tuple[float, ...]:
    """Ratios from one number, a list, or a text: numbers and ranges ``first:last:step``, separated by commas.

    A range includes its last ratio if the steps reach it.

    Raises:
        WidthError: The text has another form, or holds nothing.

    >>> parse_ratios("0.25:0.5:0.125")
    (0.25, 0.375, 0.5)
    >>> parse_ratios("0.3,1")
    (0.3, 1.0)
    """
    if isinstance(value, int | float | Real):
        ratios: tuple[float, ...] = (float(value),)
    elif not isinstance(value, str):
        ratios = tuple(float(ratio) for ratio in value)
    else:
        ratios = tuple(ratio for part in value.split(",") for ratio in _part(part.strip(), value))
    if not ratios or min(ratios) <= 0:
        raise WidthError(f"{value!r} is no list of widths above 0; {_EXPECTED}")
    return ratios


def read_widths(text: str, space: WidthSpace) -> tuple[NamedWidths, ...]:
    """Widths of ``space`` from ratios, or from JSON files of per-layer widths.

    A file holds one object (channels by group), a list of such objects, or an object of such objects by name. Files and
    ratios may stand in one list.

    Raises:
        WidthError: A part of ``text`` cannot be read, or does not fit the space.

    >>> from slimmable.core.space import WidthGroup
    >>> stem = WidthGroup(name="stem", base=32, minimum=8, maximum=32, divisor=8)
    >>> read_widths("0.5", WidthSpace((stem,), min_ratio=0.25, max_ratio=1.0))
    (NamedWidths(label='0.5', widths=Widths(stem=16)),)
    """
    found: list[NamedWidths] = []
    for part in text.split(","):
        part = part.strip()
        if part.endswith(".json"):
            found += [
                NamedWidths(label=label, widths=space.widths(channels)) for label, channels in _from_file(Path(part))
            ]
        else:
            found += name_ratios(parse_ratios(part), space)
    return tuple(found)


def name_ratios(ratios: Sequence[float], space: WidthSpace) -> list[NamedWidths]:
    """Uniform widths, each called by its ratio.

    Raises:
        WidthError: A ratio lies outside the space's.
    """
    return [NamedWidths(label=str(round(ratio, 6)), widths=space.uniform(ratio)) for ratio in ratios]


def _part(part: str, whole: str) -> Iterator[float]:
    numbers = part.split(":")
    if len(numbers) not in (1, 3) or not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", number) for number in numbers):
        raise WidthError(f"{part!r} in {whole!r} cannot be read as widths; {_EXPECTED}")
    if len(numbers) == 1:
        yield float(part)
        return
    first, last, step = map(float, numbers)
    if step <= 0 or last < first:
        raise WidthError(f"{part!r} is no range of widths: expected first:last:step, first <= last and a step above 0")
    for index in range(int((last - first) / step + 1e-6) + 1):
        yield round(first + index * step, 10)


def _from_file(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WidthError(f"{path} cannot be read as widths: {error}") from error
    if isinstance(value, list):
        named = [(f"{path.stem}[{index}]", channels) for index, channels in enumerate(value)]
    elif isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        named = list(value.items())
    else:
        named = [(path.stem, value)]
    if not named:
        raise WidthError(f"{path} holds no widths; expected at least one object of channels by group")
    for label, channels in named:
        if not isinstance(channels, dict) or not channels:
            raise WidthError(
                f"{path}: {label} is no widths; expected an object of channels by group, a list of such objects, or an "
                "object of them by name"
            )
        Widths.from_json(channels)
    return named
