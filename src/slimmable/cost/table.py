"""Latency from a table that the user has measured, layer by layer."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimmable.core.axes import Axis
from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.analytic import channels_of
from slimmable.cost.features import Extent, Floats, Integers, Layer, layers
from slimmable.errors import DataError

COLUMNS = ("module", "in_channels", "out_channels", "milliseconds")
NETWORK = "network"

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Grid:
    """Milliseconds at all pairs of some input and output channels, shape ``(inputs, outputs)``."""

    inputs: Floats
    outputs: Floats
    milliseconds: Floats

    def __call__(self, inputs_N: Integers, outputs_N: Integers) -> Floats:
        i, u = _between(self.inputs, inputs_N)
        j, v = _between(self.outputs, outputs_N)
        table, last_i, last_j = self.milliseconds, len(self.inputs) - 1, len(self.outputs) - 1
        next_i, next_j = np.minimum(i + 1, last_i), np.minimum(j + 1, last_j)
        low = (1 - v) * table[i, j] + v * table[i, next_j]
        high = (1 - v) * table[next_i, j] + v * table[next_i, next_j]
        return (1 - u) * low + u * high


@dataclass(frozen=True)
class _Entry:
    """A layer that the table tells of, and how often the network calls it."""

    inputs: Extent
    outputs: Extent
    calls: int
    grid: _Grid


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Latency as the sum of what a table says of each layer; made by :meth:`read`.

    Attributes:
        space: The widths it is about.
        constant: Milliseconds that no width changes.
        entries: Its layers.
        name: What it tells of widths.
        unit: In what.

    Example:
        >>> import tempfile, torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 8))
        >>> net = slimmable.convert(plain, torch.ones(1, 8))
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text('''module,in_channels,out_channels,milliseconds
        ... network,,,0.5
        ... 0,8,16,1
        ... 0,8,64,2
        ... 1,16,8,1
        ... 1,64,8,3
        ... ''')
        >>> LatencyTable.read(path, net)([net.space.smallest, net.space.widths([40]), net.space.largest])
        array([2.5, 4. , 5.5])
    """

    space: WidthSpace
    constant: float
    entries: tuple[_Entry, ...]

    name = "latency"
    unit = "ms"

    @staticmethod
    def read(path: str | Path, net: SlimmableModel) -> LatencyTable:
        """The table in a CSV file with the columns ``module,in_channels,out_channels,milliseconds``.

        A layer has a line for every pair out of some input and some output channels; between them its time is
        interpolated bilinearly, beyond them it stays. Where input and output channels are one width (of a depthwise
        convolution), lines for some of its sizes will do. Milliseconds are those of one call. A module with several
        weights (attention) is one layer, from what the first of them reads to what the last one writes. Module
        ``network``, with its channels left empty, is what no width changes.

        Args:
            path: The file.
            net: The network that it tells of; every layer whose width varies must have lines.

        Raises:
            DataError: The file is missing, has other columns or values, names a module that is no layer, or lacks a
                layer or a pair of channels.
        """
        constant, lines = _read(Path(path))
        known: dict[str, list[Layer]] = {}
        channels: dict[str, list[tuple[Axis, Axis]]] = {}
        for layer in layers(net):
            if layer.channels is not None:
                known.setdefault(layer.module, []).append(layer)
                channels.setdefault(layer.module, []).append(layer.channels)
        if unknown := [name for name in lines if name not in known]:
            raise DataError(
                f"{path}: {_few(unknown)} is no layer of this network; its layers are {_few(list(known))}, and "
                f"{NETWORK!r} is what no width changes"
            )
        varying = [name for name, calls in known.items() if any(call.varies for call in calls)]
        if missing := [name for name in varying if name not in lines]:
            raise DataError(f"{path} has no line for {_few(missing)}, whose width varies; add what these layers take")
        entries: list[_Entry] = []
        for name, pairs in lines.items():
            inputs, outputs = channels[name][0][0], channels[name][-1][1]
            calls = len(channels[name]) // len(set(channels[name]))
            grid = _grid(pairs, one=_one_group(inputs, outputs), where=f"{path}: {name}")
            entries.append(_Entry(Extent.of(inputs), Extent.of(outputs), calls, grid))
        return LatencyTable(space=net.space, constant=constant, entries=tuple(entries))

    def __call__(self, widths_list: Sequence[Widths]) -> Floats:
        """Milliseconds at each of the widths, shape ``(len(widths_list),)``.

        Raises:
            WidthError: Widths of another network.
        """
        channels = channels_of(self.space, widths_list)
        total = np.full(len(channels), self.constant)
        for entry in self.entries:
            total += entry.calls * entry.grid(entry.inputs(channels), entry.outputs(channels))
        return total


def _read(path: Path) -> tuple[float, dict[str, dict[Pair, float]]]:
    """The constant, and milliseconds by channels of every module."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path} has columns {table.fieldnames}, expected {','.join(COLUMNS)}")
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    constant: float | None = None
    lines: dict[str, dict[Pair, float]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        milliseconds = _milliseconds(row, where)
        if row["module"] == NETWORK:
            if constant is not None:
                raise DataError(f"{where}: module {NETWORK!r} stands there twice; give one line")
            constant = milliseconds
            continue
        pair = _pair(row, where)
        pairs = lines.setdefault(row["module"], {})
        if pair in pairs:
            raise DataError(f"{where}: {row['module']} with channels {pair} stands there twice; give one line")
        pairs[pair] = milliseconds
    return constant or 0.0, lines


def _milliseconds(row: Mapping[str, str], where: str) -> float:
    try:
        value = float(row["milliseconds"])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DataError(f"{where}: milliseconds are {row['milliseconds']!r}, expected a number of at least 0")
    return value


def _pair(row: Mapping[str, str], where: str) -> Pair:
    try:
        inputs, outputs = int(row["in_channels"]), int(row["out_channels"])
    except (TypeError, ValueError):
        inputs = outputs = 0
    if inputs < 1 or outputs < 1:
        found = f"{row['in_channels']!r} and {row['out_channels']!r}"
        raise DataError(f"{where}: channels are {found}, expected whole numbers of at least 1")
    return inputs, outputs


def _grid(pairs: Mapping[Pair, float], *, one: bool, where: str) -> _Grid:
    """The grid that pairs of channels fill; where both are of ``one`` group, a line of pairs will do.

    Raises:
        DataError: A pair is missing.
    """
    inputs, outputs = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    absent = [(i, j) for i in inputs for j in outputs if (i, j) not in pairs]
    if absent and one and len(outputs) == len(pairs):  # its output channels say all
        by_output = {pair[1]: took for pair, took in pairs.items()}
        return _Grid(np.zeros(1), np.array(outputs, float), np.array([[by_output[each] for each in outputs]]))
    if absent:
        raise DataError(
            f"{where} has no line for {absent[0][0]} input and {absent[0][1]} output channels (and "
            f"{len(absent) - 1} pairs more); expected every pair of the channels that its lines name"
        )
    table = np.array([[pairs[i, j] for j in outputs] for i in inputs])
    return _Grid(np.array(inputs, float), np.array(outputs, float), table)


def _one_group(inputs: Axis, outputs: Axis) -> bool:
    """Whether both follow the same single group."""
    groups = Extent.of(inputs).groups
    return len(groups) == 1 and groups == Extent.of(outputs).groups


def _between(grid: Floats, values_N: Integers) -> tuple[Integers, Floats]:
    """Place of the measured size below each value, and how far the value lies on the way to the next one."""
    kept = np.clip(values_N, grid[0], grid[-1])
    place = np.clip(np.searchsorted(grid, kept, side="right") - 1, 0, max(len(grid) - 2, 0))
    step = grid[np.minimum(place + 1, len(grid) - 1)] - grid[place]
    return place, (kept - grid[place]) / np.where(step > 0, step, 1.0)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
