"""How many examples the inputs of a network hold: what costs are divided by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.core.prove import run
from slimmable.core.steps import Step, Watch
from slimmable.core.trace import tensors
from slimmable.core.twins import copied, hollow, with_tensors


def count_examples(model: nn.Module, example_inputs: tuple[Any, ...]) -> int:
    """The leading size of those inputs that hold an entry for each example; 1 where no leading size is such a number.

    It is one if the network runs on an example more, and every operator then yields as much as before or more in
    proportion, the outputs more. A scalar or a table of positions beside a batch has no such size. Neither have a
    single image, or a single sequence, whose steps attention compares with each other.

    Cost:
        Two or three runs for each leading size above one, without data where the network runs so.

    >>> count_examples(nn.Linear(4, 2), (torch.zeros(3, 4),)), count_examples(nn.Linear(4, 2), (torch.zeros(4),))
    (3, 1)
    """
    leading = [tensor.shape[0] if tensor.ndim else 0 for tensor in tensors(example_inputs)]
    sizes = [size for size in dict.fromkeys(leading) if size > 1]
    found = [size for size in sizes if _counts(model, example_inputs, size, only=set(leading) == {size})]
    return found[0] if len(found) == 1 else 1


def _counts(model: nn.Module, inputs: tuple[Any, ...], size: int, *, only: bool) -> bool:
    """Whether a leading size counts examples; if it is the ``only`` one, outputs (a loss) need not grow with it."""
    for hollowed in (True, False):
        try:
            steps, outputs = _ran(model, inputs, size, 0, hollowed=hollowed)
        except Exception:
            continue
        try:
            more, grown = _ran(model, inputs, size, 1, hollowed=hollowed)
            if [each.operator for each in steps] == [each.operator for each in more]:
                proportional = all(map(lambda a, b: a == b or a * (size + 1) == b * size, _held(steps), _held(more)))
            else:  # code that goes through the examples one by one
                most, _ = _ran(model, inputs, size, 2, hollowed=hollowed)
                proportional = sum(_held(most)) - sum(_held(more)) == sum(_held(more)) - sum(_held(steps))
        except Exception:
            return False
        return proportional and (only or any(map(int.__lt__, outputs, grown)))
    return False


def _ran(
    model: nn.Module, inputs: tuple[Any, ...], size: int, more: int, *, hollowed: bool
) -> tuple[list[Step], list[int]]:
    """Steps of a run on ``more`` examples than the inputs hold, and elements of each output."""

    def longer(tensor: Tensor) -> Tensor:
        if hollowed:
            tensor = torch.empty_like(tensor, device="meta")
        return torch.cat([tensor, tensor[:more]]) if tensor.ndim and tensor.shape[0] == size else tensor

    used = hollow(model) if hollowed else copied(model, {id(each): each for each in model.parameters()})
    given = with_tensors(inputs, longer)
    with torch.device("meta") if hollowed else nullcontext(), Watch() as watch:
        outputs = run(used, given)
    return watch.steps, [each.numel() for each in tensors(outputs)]


def _held(steps: Sequence[Step]) -> list[int]:
    """Elements that each step yields."""
    return [prod(shape) for step in steps for shape in step.shapes]
