"""A latency model of a runtime of yours, from what ``slimmable bench`` measured there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.cost.latency import LatencyModel
from slimmable.cost.timing import Timing
from slimmable.errors import CostError, DataError, WidthError


def from_bench(path: str | Path, net: SlimmableModel, *, backend: str | None = None) -> LatencyModel:
    """A latency model fitted to the widths of an artifact, as they were timed on the device that it runs on.

    Its error is that of cross-validation: export thirty widths or more, most of them not uniform, for a good one.

    Args:
        path: The JSON file that ``slimmable bench`` wrote.
        net: The network of the artifact.
        backend: The runtime whose times count; the file's only one if None.

    Raises:
        DataError: The file cannot be read, or holds no times of that runtime.
        CostError: It holds times of fewer than five widths, or of another network's.
    """
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        rows, environment = list(found["rows"]), dict(found["environment"])
        names = list(dict.fromkeys(row["backend"] for row in rows))
        batches = sorted({row["batch"] for row in rows})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as figures of slimmable bench: {error!r}") from error
    if (backend is None and len(names) != 1) or (backend is not None and backend not in names):
        raise DataError(f"{path} holds times of {', '.join(names) or 'nothing'}; choose one of them with --runtime")
    chosen = backend or names[0]
    try:
        timings = [
            Timing(
                widths=net.space.widths(Widths.from_json(row["widths"])),
                milliseconds=float(row["milliseconds"]),
                low=float(row["low"]),
                high=float(row["high"]),
            )
            for row in rows
            if row["backend"] == chosen and row["batch"] == batches[0]
        ]
    except WidthError as error:
        raise CostError(f"{path} holds times of another network: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as figures of slimmable bench: {error!r}") from error
    return LatencyModel.fit(net, timings, device=environment | {"runtime": chosen, "batch": batches[0]})
