"""The complete description of an experiment, typed; a YAML file says the same.

Sections of other packages (training settings, data settings) are their own dataclasses, so that no field is described
twice. An unknown key and a wrong type are refused when a recipe is made.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from slimmable.errors import RecipeError
from slimmable.recipes.methods import Independent, Method, Naive, OwsMethod, PlatformsMethod, Section, SNet, UsNet
from slimmable.recipes.starting import StartSettings
from slimmable.recipes.tasks import ClassificationSettings, TaskSettings
from slimmable.recipes.widths import parse_ratios
from slimmable.train import TrainSettings


def _readable(value: str | float | tuple[float, ...]) -> str | float | tuple[float, ...]:
    parse_ratios(value)
    return value


Ratios: TypeAlias = Annotated[str | float | tuple[float, ...], AfterValidator(_readable)]
"""A ratio, a list, or a text such as ``0.25:1.0:0.05``; see :func:`slimmable.recipes.widths.parse_ratios`."""


class ConversionSettings(Section):
    """What may vary, and how far; see :func:`slimmable.convert`."""

    min_ratio: float = 0.25
    max_ratio: float = 1.0
    divisor: int = 8
    exclude: tuple[str, ...] = ()
    tie: tuple[tuple[str, ...], ...] = ()
    follow: dict[str, tuple[str, int | float]] = Field(default_factory=dict)
    averaged: bool = False
    importance: Literal["l1", "filters", "batch_norm"] | None = None


class CalibrationSettings(Section):
    """How statistics are measured after training: for all widths to be evaluated, exactly.

    Attributes:
        samples: Random training images, varied as in training.
    """

    samples: int = Field(default=2000, ge=1)


class EvaluationSettings(Section):
    """What is calibrated and evaluated on the test images when training is over.

    Attributes:
        widths: Uniform ratios; ``None`` is every width the method trains, for methods of any width from the narrowest
            to the widest in steps of 0.05. What PareCO and OWS found comes in addition.
    """

    widths: Ratios | None = None


_ANY_WIDTH = ("us-net", "pareco", "ows")
"""Methods after which any width can be calibrated."""


class Recipe(Section):
    """An experiment, completely described.

    Attributes:
        task: What is learned, from which data, by which network.
        convert: How the network is made elastic.
        method: Who chooses the widths of a step.
        start: Weights of another run that the network begins with; ``None`` begins anew.
        train: How it is trained; see :class:`slimmable.train.TrainSettings`.
        calibration: How statistics are measured afterwards; ``None`` keeps those that training followed.
        evaluation: Which widths are evaluated in the end.

    Example:
        >>> small = Recipe(train=TrainSettings(epochs=1))
        >>> small.method.kind, small.task.network.name, small.ratios[0], len(small.ratios)
        ('us-net', 'digits_cnn', 0.25, 16)
    """

    task: TaskSettings = ClassificationSettings()
    convert: ConversionSettings = ConversionSettings()
    method: Method = UsNet()
    train: TrainSettings
    start: StartSettings | None = None
    calibration: CalibrationSettings | None = CalibrationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def trained_ratios(self) -> tuple[float, ...]:
        """Ratios of all widths that are trained in every step; methods of any width train everything between two."""
        method = self.method
        if isinstance(method, SNet | Naive):
            return method.switches
        if isinstance(method, PlatformsMethod):
            return ()
        return (method.width,) if isinstance(method, Independent) else (self.convert.min_ratio, self.convert.max_ratio)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ratios that are calibrated and evaluated when training is over."""
        if self.evaluation.widths is not None:
            return parse_ratios(self.evaluation.widths)
        if self.method.kind in _ANY_WIDTH:
            return parse_ratios(f"{self.convert.min_ratio}:{self.convert.max_ratio}:0.05")
        return tuple(sorted(self.trained_ratios))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        convert, kind = self.convert, self.method.kind
        for ratio in (*self.trained_ratios, *self.ratios):
            if not convert.min_ratio - 1e-9 <= ratio <= convert.max_ratio + 1e-9:
                raise RecipeError(
                    f"the width ratio {ratio} (method or evaluation.widths) lies outside convert.min_ratio="
                    f"{convert.min_ratio} and convert.max_ratio={convert.max_ratio}"
                )
        if kind in _ANY_WIDTH and self.calibration is None:
            raise RecipeError(f"calibration is null; expected samples: {kind}'s widths have no statistics without it")
        if isinstance(self.method, OwsMethod) and self.train.distillation:
            raise RecipeError(
                "train.distillation is true; ows compares losses across widths, which must all be those against the "
                "labels: set train.distillation=false"
            )
        if kind == "naive" and self.calibration is not None:
            raise RecipeError("calibration is set; naive sharing has one set of statistics: set calibration=null")
        strangers = [ratio for ratio in self.ratios if ratio not in self.trained_ratios]
        if kind in ("s-net", "independent", "platforms") and strangers:
            trained = f"some of {', '.join(map(str, self.trained_ratios))}, or null for all of them"
            raise RecipeError(
                f"evaluation.widths has {strangers[0]}, whose batch norm {kind} does not train; expected "
                f"{trained if self.trained_ratios else 'null, for the widths of all platforms'}"
            )
        return self
