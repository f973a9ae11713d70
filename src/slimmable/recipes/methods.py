"""Who chooses the widths of a step: the sections of a recipe in which the methods differ."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from slimmable.cost.costs import COSTS
from slimmable.errors import RecipeError
from slimmable.search.ows import Temperatures
from slimmable.search.platforms import Platform
from slimmable.search.surrogate import Acquisition


class Section(BaseModel):
    """A part of a recipe: immutable, complete, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


Switches: TypeAlias = Annotated[tuple[float, ...], Field(min_length=1)]


def _known_cost(name: str) -> str:
    if name not in (*COSTS, "latency"):
        raise RecipeError(f"there is no cost called {name!r}; expected one of {', '.join((*COSTS, 'latency'))}")
    return name


CostName: TypeAlias = Annotated[str, AfterValidator(_known_cost)]


class UsNet(Section):
    """Widest, narrowest and ``n - 2`` random widths per step; batch norm is calibrated afterwards for any width.

    Attributes:
        n: Widths per step.
        mode: One random ratio for all groups, or one for each.

    References:
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019.
    """

    kind: Literal["us-net"] = "us-net"
    n: int = Field(default=4, ge=2)
    mode: Literal["uniform", "nonuniform"] = "uniform"


class SNet(Section):
    """A fixed list of widths, all in every step, each with private batch norm.

    References:
        Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019.
    """

    kind: Literal["s-net"] = "s-net"
    switches: Switches = (0.25, 0.5, 0.75, 1.0)


class Independent(Section):
    """One network of one width, trained alone: what shared weights are compared with.

    Attributes:
        width: Ratio of the only width that is trained. The rest of the weights stays as it was drawn.
    """

    kind: Literal["independent"] = "independent"
    width: float = 1.0


class Naive(Section):
    """A fixed list of widths that share everything, statistics of batch norm too: the baseline that fails.

    References:
        Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 3.2.
    """

    kind: Literal["naive"] = "naive"
    switches: Switches = (0.25, 0.5, 0.75, 1.0)


class PareCoMethod(Section):
    """Widest, narrowest and ``m`` widths found by Bayesian optimisation every ``n`` steps; the front is calibrated.

    Attributes:
        cost: What is traded against the loss.
        latency: For the cost ``latency``, the file of its model or table.
        m: Widths found at a time.
        n: Steps of training between searches.
        warm_up: Uniform widths that begin the history.
        acquisition: How the next widths are chosen.
        front: Most widths of the front that are calibrated and evaluated in the end, spread over its costs.

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. 2020.
    """

    kind: Literal["pareco"] = "pareco"
    cost: CostName = "macs"
    latency: str | None = None
    m: int = Field(default=2, ge=1)
    n: int = Field(default=313, ge=1)
    warm_up: int = Field(default=20, ge=2)
    acquisition: Acquisition = Acquisition()
    front: int = Field(default=20, ge=1)


class OwsMethod(Section):
    """Widest, narrowest and ``k`` random configurations, whose losses say which widths each platform should have.

    Attributes:
        cost: What the platforms' budgets bound.
        latency: For the cost ``latency``, the file of its model or table.
        platforms: Budgets, importance and sampling; in the end each gets its widths.
        choices: Most channel counts of each width; null is all of them.
        k: Random configurations per step.
        window: Most recent losses of each choice that count.
        adaptive: AOWS: after the warm-up, draw where the platforms' best widths are likely to be.
        warm_up_epochs: Epochs of uniform sampling before that.
        temperatures: How the sampling sharpens after it.
        joint: Draw whole configurations, not every width by itself.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Section 3.2.
    """

    kind: Literal["ows"] = "ows"
    cost: CostName = "macs"
    latency: str | None = None
    platforms: Annotated[tuple[Platform, ...], Field(min_length=1)]
    choices: int | None = Field(default=14, ge=2)
    k: int = Field(default=1, ge=1)
    window: int = Field(default=100, ge=1)
    adaptive: bool = False
    warm_up_epochs: float = Field(default=10, ge=0)
    temperatures: Temperatures = Temperatures()
    joint: bool = True

    @field_validator("platforms")
    @classmethod
    def _told_apart(cls, value: tuple[Platform, ...]) -> tuple[Platform, ...]:
        names = [platform.name for platform in value]
        if len(set(names)) < len(names):
            raise RecipeError(f"two platforms have one name: {', '.join(names)}")
        return value


class PlatformsMethod(Section):
    """One network for several platforms: their widths with private batch norm, the final training of OWS and AOWS.

    Attributes:
        widths: Channels by group for every platform, by name; a path to a JSON file of that form is read.
        weights: How often the widths between the widest and the narrowest are drawn, by name; null is equally often.
        n: Widths per step: the widest, the narrowest and ``n - 2`` of the others; null is all of them.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Section 4.1.
    """

    kind: Literal["platforms"] = "platforms"
    widths: Annotated[dict[str, dict[str, int]], Field(min_length=1)]
    weights: dict[str, float] | None = None
    n: int | None = Field(default=3, ge=3)

    @field_validator("widths", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{value} cannot be read as widths by name: {error}") from error

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights is None:
            return self
        if self.n is None:
            raise RecipeError(
                "weights are given and n is null, which puts all widths in every step; set n, or no weights"
            )
        if set(self.weights) != set(self.widths):
            raise RecipeError(
                f"weights names {', '.join(self.weights)}; expected the platforms of widths: {', '.join(self.widths)}"
            )
        return self


Method: TypeAlias = Annotated[
    UsNet | SNet | Independent | Naive | PareCoMethod | OwsMethod | PlatformsMethod, Field(discriminator="kind")
]
