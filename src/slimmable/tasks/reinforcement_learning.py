"""Reinforcement learning: a policy that learns from what it does itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from slimmable.errors import DataError, RecipeError
from slimmable.models.policies import build_policy
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.reinforcement.losses import PolicyOutputs, RollOutBatch, policy_divergence, ppo_loss
from slimmable.tasks.reinforcement.returns import Episodes, RewardMetric
from slimmable.tasks.reinforcement.settings import EnvironmentSettings, PpoSettings

if TYPE_CHECKING:
    from slimmable.tasks.reinforcement.acting import RollOuts
    from slimmable.tasks.reinforcement.environments import Spaces

TEST_SEEDS = 1 << 20
"""From here on environments are seeded for the final figure, below it for choosing anything."""


class ReinforcementLearningTask:
    """An environment, a policy's own roll-outs, proximal policy optimisation, mean rewards of whole episodes.

    Implements :class:`slimmable.train.task.Task`. The widest of the widths that are trained acts, and all of a step's
    widths learn from its actions (Algorithm 1 with PPO's loss): that is in-place distillation as the paper has it. With
    ``train.distillation`` the widths after the first may learn the widest's distribution of actions too, by
    ``ppo.kl_weight``. An epoch is some roll-outs, see :class:`PpoSettings`; a batch of validation or test data is some
    episodes, and the outputs on it are what these came to.

    Args:
        environment: Where the policy acts and is judged; CartPole unless said otherwise.
        ppo: How it learns.
        network: Name of the network as :func:`slimmable.models.policies.build_policy` takes it, or a function that
            returns a new one: from observations ``(B, ...)`` of floating-point numbers to logits ``(B, actions)`` and
            values ``(B, 1)``.
        width: Multiplier of every channel count, for networks built at several.

    Raises:
        RecipeError: Batches do not divide a roll-out, or ``width`` goes with a function as ``network``.

    References:
        [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, sections 4.2 and 5.1.
        [2] Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347.

    >>> task = ReinforcementLearningTask(ppo=PpoSettings(steps=4, batch_size=16))
    >>> batch = next(iter(task.train_batches(task.model(), epoch=0, seed=0)))
    >>> batch.observations.shape, task.loss(task.forward(task.model(), batch), batch).shape
    (torch.Size([16, 4]), torch.Size([]))
    """

    name = "reinforcement-learning"
    metric = "mean_reward"
    higher_is_better = True

    def __init__(
        self,
        environment: EnvironmentSettings | None = None,
        *,
        ppo: PpoSettings | None = None,
        network: str | Callable[[], nn.Module] = "mlp",
        width: float | None = None,
    ) -> None:
        if not isinstance(network, str) and width is not None:
            raise RecipeError("width goes with a network's name; a function decides it itself.")
        self.environment = environment or EnvironmentSettings()
        self.ppo = ppo or PpoSettings()
        self.ppo.updates(parallel=self.environment.parallel)
        self.device = torch.device("cpu")
        self._network = network
        self._width = width

    @cached_property
    def spaces(self) -> Spaces:
        """Size of an observation and names of the actions; an environment is made to see them."""
        from slimmable.tasks.reinforcement.environments import spaces_of

        return spaces_of(self.environment)

    def model(self) -> nn.Module:
        """A new, plain network."""
        if not isinstance(self._network, str):
            return self._network()
        observation, actions = self.spaces
        return build_policy(self._network, observation=observation, actions=len(actions), width=self._width)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two observations of noise."""
        noise = torch.randn((2, *self.spaces.observation), generator=seeded_generator(0))
        return (noise.to(self.device),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> RollOuts:
        """Roll-outs of ``net`` at the widths it has when each of them begins."""
        from slimmable.tasks.reinforcement.acting import RollOuts

        return RollOuts(net, self.environment, self.ppo, epoch=epoch, seed=seed, device=self.device)

    def validation_batches(self) -> tuple[Episodes, ...]:
        """Episodes for choosing anything; they begin with other seeds than those of the test."""
        return self._episodes(0, self.environment.validation_episodes)

    def test_batches(self) -> tuple[Episodes, ...]:
        """Episodes of the final figure."""
        return self._episodes(TEST_SEEDS, self.environment.test_episodes)

    def calibration_batches(self, *, samples: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """What is seen under random actions."""
        from slimmable.tasks.reinforcement.acting import observed

        for seen in observed(self.environment, samples=samples, seed=seed):
            yield (seen.to(self.device),)

    def forward(self, net: nn.Module, batch: RollOutBatch | Episodes) -> PolicyOutputs | Tensor:
        """Logits and values of a roll-out's steps; of episodes their rewards and lengths, ``(number, 2)``.

        Raises:
            DataError: The network returns something else than logits and values.
        """
        if isinstance(batch, Episodes):
            from slimmable.tasks.reinforcement.acting import played

            return played(net, self.environment, batch, device=self.device)
        outputs = net(batch.observations)
        size, actions = len(batch.observations), len(self.spaces.actions)
        found = [tuple(each.shape) for each in outputs] if isinstance(outputs, tuple) else type(outputs).__name__
        if found != [(size, actions), (size, 1)]:
            raise DataError(
                f"the network returned {found}; expected logits of shape {(size, actions)} and values of shape "
                f"{(size, 1)}, in this order"
            )
        return outputs

    def loss(self, outputs: PolicyOutputs, batch: RollOutBatch) -> Tensor:
        """Loss of proximal policy optimisation on what the widest did."""
        return ppo_loss(outputs, batch, self.ppo)

    def distillation_loss(self, outputs: PolicyOutputs, target: PolicyOutputs, batch: RollOutBatch) -> Tensor:
        """The same, and the weighted divergence from the widest's distribution of actions."""
        loss = ppo_loss(outputs, batch, self.ppo)
        return loss + self.ppo.kl_weight * policy_divergence(outputs, target) if self.ppo.kl_weight else loss

    def metrics(self) -> RewardMetric:
        """A new, empty metric."""
        return RewardMetric()

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def _episodes(self, seed: int, number: int) -> tuple[Episodes, ...]:
        most = self.environment.parallel
        return tuple(Episodes(seed + begin, min(most, number - begin)) for begin in range(0, number, most))
