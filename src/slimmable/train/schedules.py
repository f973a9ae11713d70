r"""How the learning rate falls: each schedule is a pure function of the iteration.

With :math:`i` the iteration, :math:`P` iterations per epoch, :math:`E` epochs and :math:`e = \lfloor i / P \rfloor` the
epochs done, a schedule gives the *factor* on the settings' learning rate. Nothing is counted inside, so a resumed run
meets the same rates as an uninterrupted one.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from slimmable.errors import RecipeError


class Schedule(Protocol):
    """A factor on the learning rate, by iteration."""

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration`` (from 0) of a run of ``epochs * per_epoch`` iterations."""
        ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate throughout: factor 1.

    Example:
        >>> Constant().factor(7, per_epoch=10, epochs=2)
        1.0
    """

    kind: Literal["constant"] = "constant"

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration``."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    r"""Down by a constant ratio at given epochs: :math:`r^{|\{m : m \le e\}|}`.

    Attributes:
        milestones: Epochs, counted from 0, from which the rate is multiplied once more.
        ratio: The multiplier :math:`r`.

    Raises:
        RecipeError: Milestones that are not increasing and positive, or a ratio outside (0, 1].

    References:
        Yu et al. Slimmable Neural Networks. ICLR 2019: ResNet-50, a tenth at epochs 30, 60 and 90.

    Example:
        >>> step = Step(milestones=(30, 60))
        >>> [round(step.factor(epoch * 10, per_epoch=10, epochs=100), 12) for epoch in (0, 29, 30, 60)]
        [1.0, 1.0, 0.1, 0.01]
    """

    milestones: tuple[int, ...]
    ratio: float = 0.1
    kind: Literal["step"] = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if any(b <= a for a, b in zip((0, *self.milestones), self.milestones, strict=False)):
            raise RecipeError(f"Step.milestones is {self.milestones}; expected increasing epochs, such as (30, 60, 90)")
        _check_ratio("Step.ratio", self.ratio)

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration``."""
        epoch = iteration // per_epoch
        return self.ratio ** sum(milestone <= epoch for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Exponential:
    r"""Down by a constant ratio every epoch: :math:`r^e`.

    Attributes:
        ratio: The multiplier :math:`r`.

    Raises:
        RecipeError: A ratio outside (0, 1].

    References:
        Yu et al. Slimmable Neural Networks. ICLR 2019: MobileNets, 0.98 per epoch.

    Example:
        >>> Exponential(ratio=0.5).factor(29, per_epoch=10, epochs=5)
        0.25
    """

    ratio: float = 0.98
    kind: Literal["exponential"] = "exponential"

    def __post_init__(self) -> None:
        _check_ratio("Exponential.ratio", self.ratio)

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration``."""
        return self.ratio ** (iteration // per_epoch)


@dataclass(frozen=True, kw_only=True)
class Linear:
    r"""Down to zero in equal parts, every iteration: :math:`1 - i / (E P)`.

    References:
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019: 0.5 to 0.

    Example:
        >>> [Linear().factor(iteration, per_epoch=10, epochs=2) for iteration in (0, 5, 10, 20)]
        [1.0, 0.75, 0.5, 0.0]
    """

    kind: Literal["linear"] = "linear"

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration``."""
        return 1.0 - iteration / (epochs * per_epoch)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    r"""Down to zero along half a cosine, every iteration: :math:`\tfrac12 (1 + \cos(\pi i / (E P)))`.

    References:
        Loshchilov, Hutter. SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017, Eq. 5, one period.

    Example:
        >>> [round(Cosine().factor(iteration, per_epoch=10, epochs=2), 12) for iteration in (0, 10, 20)]
        [1.0, 0.5, 0.0]
    """

    kind: Literal["cosine"] = "cosine"

    def factor(self, iteration: int, *, per_epoch: int, epochs: int) -> float:
        """The factor at ``iteration``."""
        return 0.5 * (1.0 + math.cos(math.pi * iteration / (epochs * per_epoch)))


AnySchedule = Constant | Step | Exponential | Linear | Cosine


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    r"""The learning rate of every iteration: schedule times warm-up.

    .. math:: \eta(i) = \eta \, f(i) \, \min(1, (i + 1) / W)

    with :math:`f` the schedule and :math:`W` the iterations of warm-up, so that the first step is not idle and the
    schedule's own clock starts with the run.

    Attributes:
        base: :math:`\eta`.
        schedule: :math:`f`.
        per_epoch: Iterations per epoch.
        epochs: Epochs of the whole run.
        warmup_epochs: :math:`W` in epochs, fractions allowed.

    References:
        Goyal et al. Accurate, Large Minibatch SGD. arXiv 1706.02677, section 2.2.

    Example:
        >>> rate = LearningRate(base=1.0, schedule=Constant(), per_epoch=4, epochs=2, warmup_epochs=1)
        >>> [rate(iteration) for iteration in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    base: float
    schedule: Schedule
    per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0

    def __call__(self, iteration: int) -> float:
        """The learning rate at ``iteration``, counted from 0."""
        warmup = round(self.warmup_epochs * self.per_epoch)
        ramp = (iteration + 1) / warmup if iteration < warmup else 1.0
        return self.base * self.schedule.factor(iteration, per_epoch=self.per_epoch, epochs=self.epochs) * ramp


def _check_ratio(name: str, ratio: float) -> None:
    if not 0.0 < ratio <= 1.0:
        raise RecipeError(f"{name} is {ratio}; expected a number above 0 and at most 1")
