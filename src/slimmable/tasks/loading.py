"""Samples read by worker processes, whose errors reach the user as they were raised."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from slimmable.errors import SlimmableError


def loaded(
    samples: Dataset[Any],
    *,
    order: Sequence[int],
    batch_size: int,
    workers: int,
    generator: torch.Generator | None,
    pin_memory: bool = False,
    collate: Callable[[list[Any]], Any] = default_collate,
) -> Iterator[Any]:
    """Batches of ``samples``.

    torch's loader would raise an error of a worker anew, with the worker's traceback as its message. Here the worker
    hands an error of ours over as if it were a sample, and it is raised where the batch is asked for.

    Args:
        samples: By number.
        order: Numbers of those that are read.
        batch_size: Samples in a batch; the last one may have fewer.
        workers: Processes that read; 0 reads in this one.
        generator: Seeds the workers.
        pin_memory: Whether batches lie in memory from which a GPU copies faster.
        collate: Makes a batch of a list of samples.

    Raises:
        SlimmableError: Of a sample.
    """
    loader: DataLoader[Any] = DataLoader(
        _Told(samples),
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=generator,
        collate_fn=_Collated(collate),
    )
    for batch in loader:
        if isinstance(batch, SlimmableError):
            raise batch
        yield batch


class _Told(Dataset[Any]):
    """Samples, or the error that one of them raises."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Any:
        try:
            return self.samples[index]
        except SlimmableError as error:
            return error


class _Collated:
    """A batch, or the first error among its samples."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        errors = [each for each in samples if isinstance(each, SlimmableError)]
        return errors[0] if errors else self.collate(samples)
