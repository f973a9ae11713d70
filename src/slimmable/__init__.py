"""One set of weights that runs at any width, from a PyTorch network you already have.

The public names below load when they are first used: ``import slimmable`` is fast and imports no torch, so that what
needs none (widths, records, errors) works where torch is not installed.

    >>> import slimmable
    >>> slimmable.Widths.__module__
    'slimmable.core.space'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimmable.core.checkpoint import load
    from slimmable.core.checkpoint import save_network as save
    from slimmable.core.convert import convert
    from slimmable.core.model import SlimmableModel
    from slimmable.core.operators import operator_rule
    from slimmable.core.report import ConversionReport
    from slimmable.core.space import WidthGroup, Widths, WidthSpace
    from slimmable.cost.analytic import CostModel, activation_bytes, macs, parameters
    from slimmable.cost.latency import LatencyModel
    from slimmable.cost.table import LatencyTable
    from slimmable.cost.timing import measure_latency
    from slimmable.errors import SlimmableError
    from slimmable.export.artifact import write_artifact
    from slimmable.measure.calibration import calibrate
    from slimmable.measure.evaluation import evaluate

__version__ = "0.1.0"

_HOMES = {
    # make a network elastic
    "convert": "slimmable.core.convert:convert",
    "SlimmableModel": "slimmable.core.model:SlimmableModel",
    "ConversionReport": "slimmable.core.report:ConversionReport",
    "operator_rule": "slimmable.core.operators:operator_rule",
    # say how wide
    "WidthGroup": "slimmable.core.space:WidthGroup",
    "WidthSpace": "slimmable.core.space:WidthSpace",
    "Widths": "slimmable.core.space:Widths",
    # what a width is worth, and what it costs
    "calibrate": "slimmable.measure.calibration:calibrate",
    "evaluate": "slimmable.measure.evaluation:evaluate",
    "CostModel": "slimmable.cost.analytic:CostModel",
    "macs": "slimmable.cost.analytic:macs",
    "parameters": "slimmable.cost.analytic:parameters",
    "activation_bytes": "slimmable.cost.analytic:activation_bytes",
    "measure_latency": "slimmable.cost.timing:measure_latency",
    "LatencyModel": "slimmable.cost.latency:LatencyModel",
    "LatencyTable": "slimmable.cost.table:LatencyTable",
    # keep it
    "save": "slimmable.core.checkpoint:save_network",
    "load": "slimmable.core.checkpoint:load",
    "write_artifact": "slimmable.export.artifact:write_artifact",
    # what can go wrong
    "SlimmableError": "slimmable.errors:SlimmableError",
}

__all__ = [
    "ConversionReport",
    "CostModel",
    "LatencyModel",
    "LatencyTable",
    "SlimmableError",
    "SlimmableModel",
    "WidthGroup",
    "WidthSpace",
    "Widths",
    "activation_bytes",
    "calibrate",
    "convert",
    "evaluate",
    "load",
    "macs",
    "measure_latency",
    "operator_rule",
    "parameters",
    "save",
    "write_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slimmable' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _HOMES[name].partition(":")
    try:
        value = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from slimmable.errors import MissingDependencyError

        raise MissingDependencyError(
            f"slimmable.{name} needs PyTorch, which is not installed here; cure: pip install 'slimmable[torch]'",
            name="torch",
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
