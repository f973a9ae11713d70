"""What is learned: data, losses and a metric, behind one protocol.

The loop knows nothing of classification. A super-resolution, detection or reinforcement-learning problem implements
:class:`Task` and trains with every sampler, schedule and optimizer there is.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

Batch: TypeAlias = Any
"""One step's data. Only the task that made a batch looks inside."""

Outputs: TypeAlias = Any
"""What a network returns: a tensor, or tensors in (nested) tuples, lists, mappings and dataclasses."""


class Batches(Protocol):
    """An epoch's batches: iterable, and of a known number.

    ``len`` is the number of optimizer steps in the epoch; the learning rate depends on it.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class Metric(Protocol):
    """Figures of merit over a stream of batches."""

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Take in the outputs of one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Every figure by name, over all batches taken in."""
        ...


@runtime_checkable
class Task(Protocol):
    """Data, losses and metric of one problem.

    Everything is a function of its arguments: two calls with the same seed and epoch give the same batches in the
    same order, so that a resumed run continues exactly where it stopped.
    """

    @property
    def name(self) -> str:
        """Short, for records."""
        ...

    @property
    def metric(self) -> str:
        """Key, in :meth:`Metric.compute`, of the figure that matters most."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of that figure is the better one."""
        ...

    def model(self) -> nn.Module:
        """A new, plain network for this task."""
        ...

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Positional arguments of one forward pass, for the analysis of the network's graph."""
        ...

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> Batches:
        """Training batches of one epoch.

        ``net`` serves tasks whose data come from the network itself (a policy). Whenever the loop asks for the next
        batch, it is at the widest of the widths that belong to every step.
        """
        ...

    def validation_batches(self) -> Iterable[Batch]:
        """Held-out data for choosing anything: never the test set."""
        ...

    def test_batches(self) -> Iterable[Batch]:
        """Held-out data for the final figure."""
        ...

    def calibration_batches(self, *, samples: int, seed: int) -> Iterable[tuple[Tensor, ...]]:
        """Positional model inputs of training data, varied as in training."""
        ...

    def forward(self, net: nn.Module, batch: Batch) -> Outputs:
        """The network's outputs on a batch, at the widths the network has now."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss against the labels: a scalar, mean over the batch."""
        ...

    def distillation_loss(self, outputs: Outputs, target: Outputs, batch: Batch) -> Tensor:
        """Loss against the widest network's prediction: a scalar, mean over the batch.

        ``target`` has the structure of ``outputs`` and carries no gradient.
        """
        ...

    def metrics(self) -> Metric:
        """A new, empty metric."""
        ...

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``."""
        ...
