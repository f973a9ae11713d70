"""Accuracy and loss over a stream of batches."""

import torch.nn.functional as F
from torch import Tensor

from slimmable.errors import DataError
from slimmable.tasks.images.memory import ImageBatch


class ClassificationMetric:
    """Share of images classified right, and the mean cross-entropy without label smoothing.

    ``compute`` gives ``accuracy`` and ``loss`` (in nats), and with more than five classes ``accuracy_top5``, the share
    of images whose class is among the five most likely. Sums stay on the device until then, so that nothing waits.

    >>> import torch
    >>> metric = ClassificationMetric()
    >>> metric.update(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), ImageBatch(torch.empty(2, 0), torch.tensor([0, 1])))
    >>> metric.compute()["accuracy"]
    0.5
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, outputs: Tensor, batch: ImageBatch) -> None:
        """Take in the logits ``(B, K)`` of one batch."""
        logits = outputs.detach().float()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
        figures = {
            "accuracy": ranked[:, 0].sum(),
            "loss": F.cross_entropy(logits, batch.labels, reduction="none").double().sum(),
        }
        if logits.shape[1] > 5:
            figures["accuracy_top5"] = ranked.sum()
        for name, value in figures.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += len(logits)

    def compute(self) -> dict[str, float]:
        """Every figure over all images taken in.

        Raises:
            DataError: There were none.
        """
        if not self._count:
            raise DataError(
                "accuracy over no images at all; expected at least one batch. Check that the split is not empty."
            )
        return {name: total.item() / self._count for name, total in self._sums.items()}
