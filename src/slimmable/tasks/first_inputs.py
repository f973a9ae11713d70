"""What calibrates a network: the inputs of the first examples of some batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class SizedBatches(Protocol):
    """Batches of which all but the last have one size."""

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class FirstInputs:
    """Inputs of the first examples of some batches, as positional arguments of a network.

    Attributes:
        batches: As they train the network.
        samples: At most so many examples.
        inputs: Of a batch, the inputs of at most so many of its examples.

    >>> import torch
    >>> class Numbers(list):
    ...     batch_size = 2
    >>> batches = Numbers([torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5])])
    >>> first = FirstInputs(batches=batches, samples=3, inputs=lambda batch, most: batch[:most])
    >>> len(first), [each.tolist() for each, in first]
    (2, [[1, 2], [3]])
    """

    batches: SizedBatches
    samples: int
    inputs: Callable[[Any, int], Tensor]

    def __len__(self) -> int:
        return min(len(self.batches), -(-self.samples // self.batches.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        left = self.samples
        for batch in self.batches:
            inputs = self.inputs(batch, left)
            yield (inputs,)
            left -= len(inputs)
            if left <= 0:
                return


def images_of(batch: Any, most: int) -> Tensor:
    """Images ``(B, C, H, W)`` of a batch that has ``images``."""
    return batch.images[:most]
