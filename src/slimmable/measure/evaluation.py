"""Figures of merit of a network at many widths, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths


class Metric(Protocol):
    """Figures over a stream of batches."""

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in the outputs of one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Every figure by name, over all batches taken in."""
        ...


def evaluate(
    net: SlimmableModel,
    batches: Iterable[Any],
    widths_list: Sequence[Widths],
    *,
    forward: Callable[[SlimmableModel, Any], Any],
    metric_factory: Callable[[], Metric],
) -> list[dict[str, float]]:
    """Figures of ``net`` at every width of a list, in the order of the list.

    Every batch is read once and run at all widths. The network comes back in its mode and at its widths, also after
    an error.

    Args:
        net: A converted network, calibrated for every width of the list.
        batches: Data, read once.
        widths_list: Widths to evaluate.
        forward: From the network and a batch to outputs.
        metric_factory: A new, empty metric; its ``update`` takes outputs and the batch.

    Returns:
        A mapping of figures for each width.

    Raises:
        CalibrationError: Batch norm has no current statistics for a width.

    Cost:
        One forward pass per batch and width, no gradients.
    """
    metrics = [metric_factory() for _ in widths_list]
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            for batch in batches:
                for widths, metric in zip(widths_list, metrics, strict=True):
                    with net.at(widths):
                        metric.update(forward(net, batch), batch)
    finally:
        for module, mode in modes:
            module.training = mode
    return [metric.compute() for metric in metrics]
