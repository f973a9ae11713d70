"""A network as the policy of stable-baselines3: its roll-outs, and the episodes by which it is judged."""

import random
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from slimmable.tasks.reinforcement.environments import open_environments
from slimmable.tasks.reinforcement.losses import RollOutBatch
from slimmable.tasks.reinforcement.returns import Episodes
from slimmable.tasks.reinforcement.settings import EnvironmentSettings, PpoSettings
from slimmable.train.randomness import seeded

TRAINING_SEEDS = 1 << 30
"""From here on environments are seeded for training; those that judge have smaller seeds."""


class NetworkPolicy(ActorCriticPolicy):
    """A network that returns logits and values, at the widths that it has.

    Args:
        observation_space: What it sees.
        action_space: What it can do.
        lr_schedule: Not used.
        network: From observations ``(B, ...)`` of floating-point numbers to logits ``(B, actions)`` and values
            ``(B, 1)``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        network: nn.Module,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **options)
        self.network = network

    def _build(self, lr_schedule: Schedule) -> None:
        """The layers are the network's."""

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values, and logarithms of the actions' probabilities."""
        logits, values = self.network(obs.float())
        actions = _chosen(logits, greedy=deterministic)
        return actions, values, _log_probabilities(logits, actions)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return _chosen(self.network(observation.float())[0], greedy=deterministic)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, logarithms of the actions' probabilities, and entropies."""
        logits, values = self.network(obs.float())
        logs = logits.log_softmax(1)
        return values, _log_probabilities(logits, actions), -(logs.exp() * logs).sum(1)

    def predict_values(self, obs: Any) -> Tensor:
        """Values alone."""
        return self.network(obs.float())[1]


class Collector(PPO):
    """stable-baselines3's PPO with a network of ours as its policy; the steps of its optimizer are our loop's.

    Args:
        net: The network, at the widths that act.
        environments: Reset, and stepped from there on.
        settings: Of the roll-outs.
        device: Where the network is.
    """

    def __init__(self, net: nn.Module, environments: VecEnv, settings: PpoSettings, *, device: torch.device) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are trying to run")  # that small networks are slow on a GPU
            super().__init__(
                NetworkPolicy,
                environments,
                n_steps=settings.steps,
                batch_size=settings.batch_size,
                n_epochs=settings.passes,
                gamma=settings.discount,
                gae_lambda=settings.gae_lambda,
                clip_range=settings.clip,
                ent_coef=settings.entropy_weight,
                vf_coef=settings.value_weight,
                policy_kwargs={"network": net},
                device=device,
            )
        self.set_logger(Logger(folder=None, output_formats=[]))
        _, self._callback = self._setup_learn(total_timesteps=0)

    def collect(self) -> None:
        """Fill the buffer with the next roll-out, by the network as it is now."""
        assert self.env is not None
        with torch.no_grad(), judged(self.policy):
            self.collect_rollouts(self.env, self._callback, self.rollout_buffer, self.n_steps)

    def one_pass(self) -> list[RollOutBatch]:
        """The buffer in batches, in an order drawn by numpy's global generator; observations are as they were kept."""
        return [
            RollOutBatch(
                observations=part.observations,
                actions=part.actions.long().flatten(),
                log_probabilities=part.old_log_prob,
                advantages=part.advantages,
                returns=part.returns,
            )
            for part in self.rollout_buffer.get(self.batch_size)
        ]


class RollOuts:
    """Batches of one epoch: roll-outs of a network, each made by the weights that the one before left.

    A function of the seed, the epoch and the weights: environments begin anew, and what is drawn (actions, orders) is
    seeded for every roll-out. The network acts at the widths it has when a roll-out begins, in evaluation mode.

    Args:
        net: Acts; trained between the batches.
        environment: Where.
        settings: How long, and in which batches.
        epoch: Number of the epoch.
        seed: Of the run.
        device: Where the network is.
    """

    def __init__(
        self,
        net: nn.Module,
        environment: EnvironmentSettings,
        settings: PpoSettings,
        *,
        epoch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._net, self._environment, self._settings, self._device = net, environment, settings, device
        self._epoch, self._seed = epoch, seed
        self._steps = settings.updates(parallel=environment.parallel)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[RollOutBatch]:
        parallel = self._environment.parallel
        begin = TRAINING_SEEDS + self._drawn("environments") % TRAINING_SEEDS
        with closing(open_environments(self._environment, count=parallel, seed=begin)) as environments:
            collector = Collector(self._net, environments, self._settings, device=self._device)
            for index in range(self._settings.roll_outs):
                with seeded(self._drawn(f"actions {index}"), device=self._device):
                    collector.collect()
                for one in range(self._settings.passes):
                    with seeded(self._drawn(f"order {index} {one}"), device=self._device):
                        batches = collector.one_pass()
                    for batch in batches:
                        yield batch._replace(observations=batch.observations.float())

    def _drawn(self, purpose: str) -> int:
        """A seed that tells apart runs, epochs and what is drawn."""
        return random.Random(f"roll-outs {self._seed} {self._epoch} {purpose}").getrandbits(31)


def played(net: nn.Module, environment: EnvironmentSettings, episodes: Episodes, *, device: torch.device) -> Tensor:
    """Rewards and lengths of whole episodes, in the order in which they end.

    Rewards are the environment's own, and an Atari game is played to its end. What is drawn is seeded.

    Args:
        net: Acts, at the widths it has.
        environment: Where, and whether the likeliest actions are taken.
        episodes: Which.
        device: Where the network is.

    Returns:
        Tensor ``(number, 2)``: sum of an episode's rewards, and its length in steps (frames of Atari).
    """
    with closing(open_environments(environment, count=episodes.number, seed=episodes.seed)) as environments:
        policy = NetworkPolicy(environments.observation_space, environments.action_space, _no_rate, network=net)
        policy = policy.to(device)
        with seeded(episodes.seed, device=device), judged(net), torch.no_grad():
            rewards, lengths = evaluate_policy(
                policy, environments, episodes.number, deterministic=environment.greedy, return_episode_rewards=True
            )
    return torch.tensor(np.stack([rewards, lengths], axis=1), dtype=torch.float64)


def observed(environment: EnvironmentSettings, *, samples: int, seed: int) -> Iterator[Tensor]:
    """Batches of what is seen under random actions, as many as environments run side by side: ``samples`` in all."""
    with closing(open_environments(environment, count=environment.parallel, seed=TRAINING_SEEDS + seed)) as games:
        generator = np.random.default_rng(seed)
        seen = games.reset()
        for done in range(0, samples, environment.parallel):
            yield torch.from_numpy(np.array(seen, dtype=np.float32)[: samples - done])
            assert isinstance(games.action_space, spaces.Discrete)
            seen = games.step(generator.integers(games.action_space.n, size=environment.parallel))[0]


@contextmanager
def judged(net: nn.Module) -> Iterator[None]:
    """Inside, every part of a network is in evaluation mode; afterwards each is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _chosen(logits: Tensor, *, greedy: bool) -> Tensor:
    return logits.argmax(1) if greedy else torch.multinomial(logits.softmax(1), 1)[:, 0]


def _log_probabilities(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(1).gather(1, actions[:, None])[:, 0]


def _no_rate(_: float) -> float:
    """A policy that only acts has no learning rate."""
    return 0.0
