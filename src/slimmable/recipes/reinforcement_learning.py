"""Policies that act at any width: the paper's Breakout, and quick ones on classic control.

One network of one width, what shared weights are compared with: ``method.kind=independent method.width=0.5``; then that
width acts. ``task.environment.processes=true`` gives every environment a process of its own.

References:
    [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, sections 4.2 and 5.1.
    [2] Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347, Table 5.
    [3] Raffin. RL Baselines3 Zoo, hyperparameters of PPO.
"""

from dataclasses import replace

from slimmable.recipes.config import EvaluationSettings, Recipe
from slimmable.recipes.reinforcement_section import PolicySettings, ReinforcementLearningSettings
from slimmable.tasks import EnvironmentSettings, PpoSettings
from slimmable.train import AdamW, TrainSettings

FOUR = (0.25, 0.5, 0.75, 1.0)


def cartpole() -> Recipe:
    """US-Net, two layers of 16 to 64, CartPole: about a minute on a CPU."""
    return Recipe(
        task=ReinforcementLearningSettings(
            environment=EnvironmentSettings(name="CartPole-v1"),
            ppo=PpoSettings(steps=256, roll_outs=8, passes=10, clip=0.2, entropy_weight=0.0),
        ),
        train=_training(epochs=12, lr=1e-3),
        evaluation=EvaluationSettings(widths=FOUR),
    )


def smoke() -> Recipe:
    """A US-Net on CartPole for two short epochs: a check that everything works."""
    base = cartpole()
    assert isinstance(base.task, ReinforcementLearningSettings)
    task = base.task.model_copy(
        update={
            "environment": replace(base.task.environment, validation_episodes=4, test_episodes=4),
            "ppo": replace(base.task.ppo, roll_outs=2),
        }
    )
    return base.model_copy(update={"task": task, "train": replace(base.train, epochs=2)})


def acrobot() -> Recipe:
    """US-Net, two layers of 16 to 64, Acrobot: minutes on a CPU."""
    return Recipe(
        task=ReinforcementLearningSettings(
            environment=EnvironmentSettings(name="Acrobot-v1", parallel=16),
            ppo=PpoSettings(steps=256, roll_outs=4, gae_lambda=0.94, clip=0.2, entropy_weight=0.0),
        ),
        train=_training(epochs=12, lr=1e-3),
        evaluation=EvaluationSettings(widths=FOUR),
    )


def lunar_lander() -> Recipe:
    """US-Net, two layers of 16 to 64, LunarLander: a million steps."""
    return Recipe(
        task=ReinforcementLearningSettings(
            environment=EnvironmentSettings(name="LunarLander-v3", parallel=16),
            ppo=PpoSettings(steps=1024, roll_outs=4, discount=0.999, gae_lambda=0.98, clip=0.2),
        ),
        train=_training(epochs=15, lr=1e-3),
        evaluation=EvaluationSettings(widths=FOUR),
    )


def breakout() -> Recipe:
    """US-Net, convolutions of 32, 64 and 32 channels, 8 to 32 and so on at the narrowest, Breakout on Atari.

    The network and the widths of [1], PPO as [2] has it for Atari, but for a constant clip range and, as in common
    implementations, half the weight of the values' error and gradients clipped at 0.5: ten million steps of the
    environments, 40 million frames. Narrow widths learn the widest's distribution of actions beside its roll-outs:
    without that the narrowest fell below a blind policy in a run of 131,072 steps.
    """
    return Recipe(
        task=ReinforcementLearningSettings(
            environment=EnvironmentSettings(name="BreakoutNoFrameskip-v4", atari=True, greedy=False),
            ppo=PpoSettings(roll_outs=16, passes=3, kl_weight=1.0),
            network=PolicySettings(name="cnn"),
        ),
        train=_training(epochs=610, lr=2.5e-4, validate_every=20),
        evaluation=EvaluationSettings(widths=FOUR),
    )


def _training(*, epochs: int, lr: float, validate_every: int = 1) -> TrainSettings:
    return TrainSettings(
        epochs=epochs,
        lr=lr,
        optimizer=AdamW(eps=1e-5),
        weight_decay=0.0,
        clip_norm=0.5,
        validate_every=validate_every,
    )
