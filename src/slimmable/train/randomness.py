"""Random numbers that depend on a seed and on nothing that ran before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, *, device: torch.device) -> Iterator[None]:
    """Inside the block the generators of torch, numpy and Python start from ``seed``; after it they are as before.

    The loop opens one block per epoch, with a seed made of the run's and the epoch's: an epoch's random numbers
    (dropout, augmentation) are a function of these two, so that a resumed run needs no stored generator states, and
    continues alike on another number of devices.

    Args:
        seed: At least 0; all its bits count for Python's generator, the lowest 32 for numpy's.
        device: Whose generator is seeded along with the CPU's.

    Example:
        >>> with seeded(3, device=torch.device("cpu")):
        ...     a = torch.rand(2)
        >>> with seeded(3, device=torch.device("cpu")):
        ...     bool((torch.rand(2) == a).all())
        True
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (the global generator is the one that others' code draws from)
    accelerators = [device] if device.type in ("cuda", "xpu") else []
    with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of a run, unrelated to those of its neighbours and of neighbouring runs.

    Example:
        >>> len({epoch_seed(seed, epoch) for seed in range(10) for epoch in range(10)})
        100
    """
    return random.Random(f"epoch {seed} {epoch}").getrandbits(63)
