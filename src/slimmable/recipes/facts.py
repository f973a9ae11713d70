"""What the data said of a network when it was trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from slimmable.errors import DataError
from slimmable.record import atomic_write_json
from slimmable.train import Task


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What a network can be built from again where the data are not, beside the recipe.

    Attributes:
        input_size: Size of one input, without the batch.
        classes: What its outputs tell apart, by label; empty where it tells nothing apart.
        resize: Shorter side that images are resized to, and limit of the longer one; empty where the network takes
            images as they are.
    """

    input_size: tuple[int, ...]
    classes: tuple[str, ...] = ()
    resize: tuple[int, ...] = ()

    @classmethod
    def of(cls, task: Task, *, classes: tuple[str, ...] = (), resize: tuple[int, ...] = ()) -> Self:
        """The facts of a task; its data may be read."""
        [example] = task.example_inputs()
        return cls(input_size=tuple(example.shape[1:]), classes=classes, resize=resize)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of what :func:`slimmable.record.jsonable` makes of it.

        Raises:
            DataError: The value has another form.
        """
        try:
            size, resize = (tuple(map(int, each)) for each in (value["input_size"], value.get("resize", ())))
            return cls(input_size=size, classes=tuple(map(str, value.get("classes", ()))), resize=resize)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{value!r} does not describe a network; expected input_size, and maybe classes") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            DataError: The file is missing or damaged.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        return cls.from_json(value)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        atomic_write_json(path, self)

    def example_inputs(self) -> tuple[Tensor]:
        """Two inputs of noise, always the same."""
        return (torch.randn(2, *self.input_size, generator=torch.Generator().manual_seed(0)),)
