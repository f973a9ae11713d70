"""Parts of a data set, drawn so that every class keeps its share."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DataError


def seeded_generator(*parts: int) -> torch.Generator:
    """Random generator that depends on every one of ``parts`` (a seed, an epoch, an index), each at least 0.

    >>> first, again, other = (torch.rand(1, generator=seeded_generator(7, epoch)) for epoch in (0, 0, 1))
    >>> bool(first == again), bool(first == other)
    (True, False)
    """
    # numpy takes (7,) and (7, 0) for the same entropy: the length tells them apart.
    state = int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)


def hold_out(labels: Tensor, fraction: float, *, seed: int, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    r"""Indices of what stays and of what is held out.

    Of the :math:`n_k` samples of class :math:`k`, :math:`\max(1, \lfloor f n_k + 1/2 \rfloor)` are held out, at most
    :math:`n_k - 1`.

    Args:
        labels: Class of every sample, ``(N,)``.
        fraction: Part :math:`f` of every class.
        seed: Chooses which.
        classes: Names of the classes, for messages.

    Returns:
        Two ascending index tensors without a common element, together ``0 .. N-1``.

    Raises:
        DataError: A class has fewer than two samples.

    >>> kept, held = hold_out(torch.tensor([0] * 10 + [1] * 20), 0.1, seed=0, classes=["a", "b"])
    >>> len(kept), len(held)
    (27, 3)
    """
    rank = _rank_within_class(labels, seed)
    counts = torch.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        name = classes[int(counts.argmin())]
        raise DataError(
            f"class {name!r} has {int(counts.min())} training images; holding some out needs at least 2. "
            "Add images, or give a validation folder of its own."
        )
    quota = (fraction * counts + 0.5).long().clamp(min=1).minimum(counts - 1)
    held = rank < quota[labels]
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def balanced_subset(labels: Tensor, samples: int, *, seed: int) -> Tensor:
    """Ascending indices of ``samples`` samples whose class counts differ by at most one where the classes allow.

    Classes take turns until enough are drawn; one that has run out is passed over. A smaller subset with the same seed
    lies within a larger one.

    Args:
        labels: Class of every sample, ``(N,)``.
        samples: How many to draw.
        seed: Chooses which.

    Raises:
        DataError: More samples are asked for than there are.

    >>> labels = torch.tensor([0] * 50 + [1] * 50 + [2] * 2)
    >>> torch.bincount(labels[balanced_subset(labels, 12, seed=0)]).tolist()
    [5, 5, 2]
    """
    if samples > len(labels):
        raise DataError(f"{samples} samples were asked for, but there are {len(labels)}; ask for at most that many.")
    rank = _rank_within_class(labels, seed)
    turn = torch.randperm(int(labels.max()) + 1, generator=seeded_generator(seed, 1))[labels]
    order = torch.argsort(rank * len(turn) + turn)
    return order[:samples].sort().values


def _rank_within_class(labels: Tensor, seed: int) -> Tensor:
    shuffled = torch.randperm(len(labels), generator=seeded_generator(seed, 0))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return rank
