"""Which environment a policy acts in, how it learns there, and how it is judged."""

from dataclasses import dataclass

from slimmable.errors import RecipeError
from slimmable.tasks.bounds import Bounded


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """Where a policy acts, and the episodes by which it is judged.

    Attributes:
        name: Name of a registered Gymnasium environment with a finite number of actions.
        atari: Wrap it as Atari games are: up to 30 idle steps at the start of a game, four frames per action of which
            the last two are merged, fire to begin, 84x84 grey pixels, four of them stacked; in training a lost life
            ends an episode and rewards count by their sign. Needs ``slimmable[atari]``.
        parallel: Environments that run side by side.
        processes: Each in a process of its own, which pays where a step of the environment takes long; the result is
            the same.
        validation_episodes: Episodes that are played for choosing anything.
        test_episodes: Episodes of the final figure, which begin with other seeds.
        greedy: Judge the likeliest action; else actions are drawn, as in training.

    Raises:
        RecipeError: A value is out of its range.

    >>> EnvironmentSettings().name
    'CartPole-v1'
    """

    name: str = "CartPole-v1"
    atari: bool = False
    parallel: int = 8
    processes: bool = False
    validation_episodes: int = 10
    test_episodes: int = 20
    greedy: bool = True

    def __post_init__(self) -> None:
        for key in ("parallel", "validation_episodes", "test_episodes"):
            if getattr(self, key) < 1:
                raise RecipeError(f"EnvironmentSettings.{key} is {getattr(self, key)}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PpoSettings(Bounded):
    r"""Proximal policy optimisation.

    An epoch of the loop is ``roll_outs`` roll-outs. Each lets the widest of the trained widths act for ``steps`` steps
    in all environments, and is passed through ``passes`` times in batches of ``batch_size``, one step of the optimizer
    each. Environments begin anew with every epoch, seeded by the run and the epoch: a resumed run needs no state of
    theirs. An epoch should therefore be longer than an episode.

    Attributes:
        steps: Steps of every environment in a roll-out.
        roll_outs: Roll-outs in an epoch.
        passes: Passes over a roll-out.
        batch_size: Steps in a batch; divides the steps of a roll-out.
        discount: :math:`\gamma`, by which a reward loses worth with every step it is away.
        gae_lambda: :math:`\lambda` of generalised advantage estimation.
        clip: :math:`\epsilon`, how far the ratio of probabilities may leave 1 before it is cut off.
        value_weight: Of the error of the values.
        entropy_weight: Of the entropy, which is sought.
        kl_weight: Of the divergence from the widest network's distribution of actions, in the loss of the widths that
            learn from it; without in-place distillation there is none.

    Raises:
        RecipeError: A value is out of its range, or ``batch_size`` does not divide a roll-out.

    References:
        Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347, Table 5.

    >>> PpoSettings().updates(parallel=8)
    128
    """

    steps: int = 128
    roll_outs: int = 8
    passes: int = 4
    batch_size: int = 256
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    kl_weight: float = 0.0

    def __post_init__(self) -> None:
        for key in ("steps", "roll_outs", "passes"):
            self._require(getattr(self, key) >= 1, key, "at least 1")
        self._require(self.batch_size >= 2, "batch_size", "at least 2, for advantages are normalised in a batch")
        for key in ("discount", "gae_lambda"):
            self._require(0 <= getattr(self, key) <= 1, key, "0 to 1")
        self._require(0 < self.clip < 1, "clip", "above 0 and below 1")
        for key in ("value_weight", "entropy_weight", "kl_weight"):
            self._require(getattr(self, key) >= 0, key, "at least 0")

    def updates(self, *, parallel: int) -> int:
        """Steps of the optimizer in an epoch.

        Args:
            parallel: Environments side by side.

        Raises:
            RecipeError: Batches do not divide a roll-out.
        """
        size = self.steps * parallel
        if size % self.batch_size:
            raise RecipeError(
                f"batch_size is {self.batch_size}, a roll-out is {self.steps} steps of {parallel} environments, {size} "
                "in all; expected a divisor of that"
            )
        return self.roll_outs * self.passes * (size // self.batch_size)
