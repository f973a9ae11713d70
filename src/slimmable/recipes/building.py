"""From a recipe to the objects it describes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from slimmable.core.convert import convert
from slimmable.core.model import SlimmableModel
from slimmable.errors import DataError
from slimmable.models import build_model
from slimmable.recipes.config import (
    ConversionSettings,
    Independent,
    Method,
    Naive,
    NetworkSettings,
    Recipe,
    SNet,
    UsNet,
)
from slimmable.record import atomic_write_json
from slimmable.tasks import ClassificationTask
from slimmable.train import Fixed, Sandwich, SwitchList, WidthSampler
from slimmable.train.randomness import seeded


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What the data said of a network when it was trained: enough to build it again where the data are not.

    Attributes:
        classes: Names, by label.
        input_size: Size of one input, without the batch.
    """

    classes: tuple[str, ...]
    input_size: tuple[int, ...]

    @classmethod
    def of(cls, task: ClassificationTask) -> Self:
        """The facts of a task; its data are read."""
        [example] = task.example_inputs()
        return cls(classes=task.classes, input_size=tuple(example.shape[1:]))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of what :func:`slimmable.record.jsonable` makes of it.

        Raises:
            DataError: The value has another form.
        """
        try:
            return cls(classes=tuple(map(str, value["classes"])), input_size=tuple(map(int, value["input_size"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{value!r} does not describe a network; expected classes and input_size") from error

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        atomic_write_json(path, self)

    def example_inputs(self) -> tuple[Tensor]:
        """Two inputs of noise, always the same."""
        return (torch.randn(2, *self.input_size, generator=torch.Generator().manual_seed(0)),)

    def network(self, settings: NetworkSettings) -> nn.Module:
        """A plain network of the right size; published weights are not fetched, for others are about to be loaded."""
        return build_model(settings.name, num_classes=len(self.classes), width=settings.width).model


def new_network(recipe: Recipe, task: ClassificationTask) -> SlimmableModel:
    """The converted network before training: a function of the recipe, its seed included."""
    with seeded(recipe.train.seed, device=torch.device("cpu")):
        plain = task.model()
        return converted(plain, task.example_inputs(), options=recipe.convert, method=recipe.method)


def converted(
    plain: nn.Module, inputs: tuple[Tensor, ...], *, options: ConversionSettings, method: Method
) -> SlimmableModel:
    """``plain`` made elastic, with the batch norm that ``method`` needs.

    Raises:
        ConversionError: The network cannot be converted with these options.
    """
    switches = None
    if isinstance(method, SNet | Independent):
        switches = method.switches if isinstance(method, SNet) else (method.width,)
    return convert(
        plain,
        inputs,
        min_ratio=options.min_ratio,
        max_ratio=options.max_ratio,
        divisor=options.divisor,
        exclude=options.exclude,
        tie=options.tie,
        follow=options.follow,
        averaged=options.averaged,
        importance=options.importance,
        switches=switches,
        batch_norm="naive" if isinstance(method, Naive) else None,
    )


def sampler(recipe: Recipe, net: SlimmableModel) -> WidthSampler:
    """Who chooses the widths of a step.

    Raises:
        WidthError: Two switches round to the same widths.
    """
    method, space = recipe.method, net.space
    if isinstance(method, UsNet):
        return Sandwich(space, n=method.n, mode=method.mode, seed=recipe.train.seed)
    if isinstance(method, Independent):
        return Fixed(space.uniform(method.width))
    return SwitchList([space.uniform(ratio) for ratio in method.switches])
