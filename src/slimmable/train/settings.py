"""Everything the loop is told, in one value."""

from dataclasses import dataclass, field
from typing import Literal

from slimmable.errors import RecipeError
from slimmable.train.optim import AnyOptimizer, Sgd
from slimmable.train.schedules import AnySchedule, Linear


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How shared weights are trained; the defaults are US-Net's, but for the epochs and a modest learning rate.

    Attributes:
        epochs: Passes over the training data.
        lr: Learning rate that the schedule's factor multiplies.
        schedule: How it falls.
        warmup_epochs: Linear warm-up, in epochs; fractions are allowed.
        optimizer: The optimizer.
        weight_decay: On the weights of convolutions and linear layers only.
        decay_depthwise: Whether depthwise convolutions are decayed too.
        clip_norm: Largest L2 norm of the gradient, or None.
        ema_decay: Decay of an exponential moving average of the weights, or None. With it, validation and the network
            that training leaves have the averaged weights.
        distillation: Whether the widths after the first learn from the first one's predictions instead of the labels.
        dropout_widest_only: Whether dropout layers act at the first widths of a step only.
        seed: Determines the order of the data and every random number of the run.
        channels_last: Memory format of the weights. ``auto``: channels last where it is known to be faster, that is
            for two-dimensional networks whose widths are all multiples of 8, on CPUs, or on GPUs in bfloat16.
        precision: ``bfloat16`` runs forward passes under autocast; weights and gradients stay float32.
        validate_every: Epochs between validations; the last epoch is always validated.

    Raises:
        RecipeError: A value outside its range.

    Example:
        >>> TrainSettings(epochs=2).optimizer
        Sgd(momentum=0.9, nesterov=True, kind='sgd')
        >>> TrainSettings(epochs=0)
        Traceback (most recent call last):
        slimmable.errors.RecipeError: TrainSettings.epochs is 0; expected at least 1
    """

    epochs: int
    lr: float = 0.1
    schedule: AnySchedule = field(default_factory=Linear)
    warmup_epochs: float = 0.0
    optimizer: AnyOptimizer = field(default_factory=Sgd)
    weight_decay: float = 1e-4
    decay_depthwise: bool = False
    clip_norm: float | None = None
    ema_decay: float | None = None
    distillation: bool = True
    dropout_widest_only: bool = False
    seed: int = 0
    channels_last: Literal["auto", "always", "never"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: int = 1

    def __post_init__(self) -> None:
        self._check("epochs", self.epochs >= 1, "at least 1")
        self._check("lr", self.lr > 0, "a number above 0")
        self._check("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"0 to {self.epochs}, the epochs")
        self._check("weight_decay", self.weight_decay >= 0, "at least 0")
        self._check("clip_norm", self.clip_norm is None or self.clip_norm > 0, "a number above 0, or None")
        self._check("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1, or None")
        self._check("seed", self.seed >= 0, "at least 0")
        formats = ("auto", "always", "never")
        self._check("channels_last", self.channels_last in formats, f"one of {', '.join(formats)}")
        self._check("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16")
        self._check("validate_every", self.validate_every >= 1, "at least 1")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise RecipeError(f"TrainSettings.{name} is {getattr(self, name)!r}; expected {expected}")
