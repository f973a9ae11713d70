"""Episodes by which a policy is judged, and what they came to."""

from typing import NamedTuple

import torch
from torch import Tensor

from slimmable.errors import DataError


class Episodes(NamedTuple):
    """Episodes to be played side by side: number ``i`` begins with ``seed + i``."""

    seed: int
    number: int


class RewardMetric:
    """Mean and standard deviation of the rewards of whole episodes, and their mean length.

    ``compute`` gives ``mean_reward``, ``std_reward`` (of one episode, not of the mean), ``min_reward``,
    ``mean_length`` in steps of the environment (frames of an Atari game), and ``episodes``, their number.

    >>> metric = RewardMetric()
    >>> metric.update(torch.tensor([[1.0, 10.0], [3.0, 30.0]]), Episodes(seed=0, number=2))
    >>> metric.compute()
    {'mean_reward': 2.0, 'std_reward': 1.0, 'min_reward': 1.0, 'mean_length': 20.0, 'episodes': 2.0}
    """

    def __init__(self) -> None:
        self._played: list[Tensor] = []

    def update(self, outputs: Tensor, batch: Episodes) -> None:
        """Take in rewards and lengths ``(number, 2)`` of episodes."""
        self._played.append(outputs)

    def compute(self) -> dict[str, float]:
        """The figures over all episodes taken in.

        Raises:
            DataError: No episode.
        """
        if not self._played:
            raise DataError("no episode was played; expected at least one")
        rewards, lengths = torch.cat(self._played).double().unbind(1)
        return {
            "mean_reward": rewards.mean().item(),
            "std_reward": rewards.std(correction=0).item(),
            "min_reward": rewards.min().item(),
            "mean_length": lengths.mean().item(),
            "episodes": float(len(rewards)),
        }
