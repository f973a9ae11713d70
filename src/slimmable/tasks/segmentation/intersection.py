"""How well label maps agree."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from slimmable.tasks.segmentation.batches import MapBatch
from slimmable.tasks.segmentation.maps import IGNORED


class IntersectionOverUnion:
    r"""Mean intersection over union of the classes, background among them, over all pixels that count.

    With :math:`n_{ij}` pixels of class :math:`i` that were named :math:`j`, over classes that occur or were named,

    .. math:: \mathrm{miou} = \operatorname{mean}_i \frac{n_{ii}}{\sum_j n_{ij} + \sum_j n_{ji} - n_{ii}},
        \qquad \mathrm{pixel\_accuracy} = \sum_i n_{ii} / \sum_{ij} n_{ij}.

    ``loss`` is the cross-entropy of the pixels that count, their mean.

    Args:
        labels: How many there are, the background included.

    References:
        Everingham et al. The Pascal Visual Object Classes Challenge: A Retrospective. IJCV 2015.

    >>> metric = IntersectionOverUnion(2)
    >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]])  # the left pixel is 0, the right one is 1
    >>> metric.update({"out": logits}, MapBatch(torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 0]]])))
    >>> metric.compute()
    {'miou': 0.25, 'pixel_accuracy': 0.5, 'loss': 1.126...}
    """

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._counts = torch.zeros(labels, labels, dtype=torch.int64)
        self._loss = torch.zeros((), dtype=torch.float64)

    def update(self, outputs: Mapping[str, Tensor], batch: MapBatch) -> None:
        """Take in the outputs of one batch."""
        counted = batch.labels != IGNORED
        logits = outputs["out"]
        truth, named = batch.labels[counted], logits.argmax(1)[counted]
        losses = F.cross_entropy(logits.float(), batch.labels, ignore_index=IGNORED, reduction="none")
        self._loss += losses.double().sum().cpu()
        pairs = torch.bincount(truth * self._labels + named, minlength=self._labels**2)
        self._counts += pairs.view(self._labels, self._labels).cpu()

    def compute(self) -> dict[str, float]:
        """Every figure by name; nan where no pixel counted."""
        counts = self._counts.double()
        right, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        return {
            "miou": (right[union > 0] / union[union > 0]).mean().item(),
            "pixel_accuracy": (right.sum() / counts.sum()).item(),
            "loss": (self._loss / counts.sum()).item(),
        }
