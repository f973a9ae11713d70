"""Budgets as people write them: ``macs<=50M``, ``latency<=4ms``, ``memory<=2MiB``."""

import re
from pathlib import Path

from slimmable.core.model import SlimmableModel
from slimmable.cost.costs import COSTS, Cost, closed_form
from slimmable.cost.latency import LatencyModel
from slimmable.cost.table import LatencyTable
from slimmable.errors import RecipeError
from slimmable.search import Budget

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIMES = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS = {"MACs": _COUNTS, "parameters": _COUNTS, "bytes": _BYTES, "ms": _TIMES}
_NAMES = f"{', '.join(COSTS)}, latency"


def read_budget(text: str, net: SlimmableModel, *, latency: str | Path | None = None) -> Budget:
    """The budget that a text states for a network.

    Args:
        text: ``COST<=NUMBER``; numbers may end in k, M or G, in ms, us or s, or in kB, MB, KiB, MiB.
        net: The network whose cost it is.
        latency: File of the latency model that ``slimmable profile`` wrote, or the user's own table (.csv).

    Raises:
        RecipeError: The text has another form, or a latency is asked for and there is no such file.
        CheckpointError: The latency model is that of another network.
        DataError: The table of latencies is malformed, or that of another network.
    """
    matched = re.fullmatch(r"\s*(\w+)\s*<=\s*(.+?)\s*", text)
    if not matched:
        raise RecipeError(
            f"{text!r} is no budget; expected COST<=NUMBER, such as macs<=50M, latency<=4ms or memory<=2MiB; "
            f"costs: {_NAMES}"
        )
    cost = read_cost(matched[1], net, latency=latency)
    return Budget(cost=cost, most=read_amount(matched[2], cost.unit))


def read_cost(name: str, net: SlimmableModel, *, latency: str | Path | None = None) -> Cost:
    """The cost of a network called ``name``: in closed form, or its latency as measured.

    A latency model tells latencies with the margin that nineteen of twenty widths keep to.

    Raises:
        RecipeError: There is none of that name, or no file of latencies.
        CheckpointError: The latency model is that of another network.
        DataError: The table of latencies is malformed, or that of another network.
    """
    if name in COSTS:
        return closed_form(net, name)
    if name != "latency":
        raise RecipeError(f"there is no cost called {name!r}; expected one of {_NAMES}")
    if latency is None or not Path(latency).exists():
        found = "none was named" if latency is None else f"{latency} does not exist"
        raise RecipeError(
            f"a cost in latency needs the file of its model, and {found}; measure this device first: "
            "slimmable profile RUN_OR_MODEL, or name another file with --latency (method.latency in a recipe)"
        )
    if Path(latency).suffix == ".csv":
        return LatencyTable.read(latency, net)
    return LatencyModel.load(latency, net.space).cautious()


def read_amount(text: str | float, unit: str) -> float:
    """A number with a suffix that suits ``unit``, in that unit.

    Raises:
        RecipeError: It cannot be read.

    >>> read_amount("3.35M", "MACs"), read_amount("2KiB", "bytes"), read_amount("4", "ms")
    (3350000.0, 2048.0, 4.0)
    """
    factors = _UNITS[unit]
    matched = re.fullmatch(r"(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*([A-Za-z]*)", str(text).strip())
    if not matched or matched[2] not in factors:
        suffixes = ", ".join(suffix for suffix in factors if suffix)
        raise RecipeError(f"{text!r} is no amount of {unit}; expected a number, perhaps with {suffixes} behind it")
    return float(matched[1]) * factors[matched[2]]
