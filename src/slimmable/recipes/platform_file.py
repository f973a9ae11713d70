"""A file of platforms: their budgets and how much each counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from slimmable.errors import RecipeError
from slimmable.recipes.methods import Section
from slimmable.recipes.reading import checked, read_mapping
from slimmable.recipes.searching import SearchMethod
from slimmable.search import WEIGHTINGS


class PlatformEntry(Section):
    """One platform.

    Attributes:
        name: What it is called.
        budget: The most that widths may cost, such as ``3.35M``, ``4ms`` or a number.
        weight: How much its accuracy counts; null is as much as the others, or what ``weighting`` says.
    """

    name: str = Field(min_length=1)
    budget: str | float
    weight: float | None = Field(default=None, ge=0)


class PlatformFile(Section):
    """What ``slimmable platforms`` reads.

    Attributes:
        run: Folder of the trained network, relative to the file.
        cost: What the budgets bound: macs, parameters or latency.
        latency: File of the latency model or table; ``latency.json`` of the run if not given.
        method: The search, as of ``slimmable search``.
        trials: Most widths that it evaluates, for each platform.
        weighting: One of the paper's weightings of seven platforms, cheapest first, in place of weights.
        platforms: Their budgets.
    """

    run: str
    cost: str = "macs"
    latency: str | None = None
    method: SearchMethod = "ows"
    trials: int = Field(default=200, ge=1)
    weighting: str | None = None
    platforms: tuple[PlatformEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [platform.name for platform in self.platforms]
        if len(set(names)) < len(names):
            raise RecipeError(f"two platforms have one name: {', '.join(names)}")
        given = [platform.weight for platform in self.platforms if platform.weight is not None]
        if self.weighting is not None:
            if self.weighting not in WEIGHTINGS:
                raise RecipeError(f"there is no weighting {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
            if given or len(names) != len(WEIGHTINGS[self.weighting]):
                raise RecipeError(
                    f"weighting {self.weighting} is for {len(WEIGHTINGS[self.weighting])} platforms without weights of "
                    f"their own, found {len(names)} with {len(given)}"
                )
        elif given and (len(given) < len(names) or sum(given) == 0):
            raise RecipeError("give every platform a weight, not all of them 0, or none of them")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each platform counts; they sum to 1."""
        if self.weighting is not None:
            return WEIGHTINGS[self.weighting]
        weights = [1.0 if platform.weight is None else platform.weight for platform in self.platforms]
        return tuple(weight / sum(weights) for weight in weights)

    def require_order(self, budgets: Sequence[float]) -> None:
        """Pass if budgets, of the platforms in one unit, are in the order that the weighting is for.

        Raises:
            RecipeError: One is less than that before it.
        """
        if self.weighting is not None and list(budgets) != sorted(budgets):
            raise RecipeError(
                f"weighting {self.weighting} is for platforms from the cheapest to the dearest, found budgets of "
                f"{', '.join(f'{budget:g}' for budget in budgets)}; put the platforms in this order"
            )


def read_platforms(path: str | Path) -> PlatformFile:
    """The platforms in a YAML file; paths in it are relative to its folder.

    Raises:
        RecipeError: The file cannot be read, or a key or value does not belong.
    """
    path = Path(path)
    found = checked(PlatformFile, read_mapping(path, "platforms"))
    places = {key: str(path.parent / place) for key in ("run", "latency") if (place := getattr(found, key))}
    return found.model_copy(update=places)
