"""Small spaces in which losses and costs are sums, so that the best widths are known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from slimmable.core.space import WidthGroup, Widths, WidthSpace
from slimmable.search import Additive


def space_of(sizes: Sequence[int]) -> WidthSpace:
    """One width of each number of choices: 1, 2, ... channels."""
    groups = [WidthGroup(name=f"g{i}", base=size, minimum=1, maximum=size, divisor=1) for i, size in enumerate(sizes)]
    return WidthSpace(tuple(groups), 1 / max(sizes), 1.0)


@dataclass
class Counted:
    """An additive cost of widths, which counts how often it was asked for which."""

    function: Additive
    name: str = "macs"
    unit: str = "MAC"
    asked: list[Widths] = field(default_factory=list)

    def __call__(self, widths: Sequence[Widths]) -> np.ndarray:
        self.asked += widths
        return np.array([self.function([kept - 1 for kept in w.channels]) for w in widths])


@dataclass
class Problem:
    """A loss that falls and a cost that grows with every width, by products of neighbouring widths."""

    sizes: tuple[int, ...]
    loss: Additive
    cost: Counted
    seen: list[Widths] = field(default_factory=list)

    @property
    def space(self) -> WidthSpace:
        return space_of(self.sizes)

    def objective(self, widths: Sequence[Widths]) -> list[float]:
        self.seen += widths
        return [self.loss([kept - 1 for kept in w.channels]) for w in widths]

    def everything(self) -> np.ndarray:
        """Cost and loss of all widths, ``(N, 2)``."""
        every = product(*map(range, self.sizes))
        return np.array([(self.cost.function(choices), self.loss(choices)) for choices in every])


def problem(seed: int, *, sizes: tuple[int, ...] = (5, 6, 4, 6, 5)) -> Problem:
    generator = np.random.default_rng(seed)
    weights, powers = generator.uniform(0.5, 2, len(sizes)), generator.uniform(0.4, 1.2, len(sizes))
    shares = [np.arange(1, size + 1) / size for size in sizes]
    loss = tuple(weight * share**-power for weight, share, power in zip(weights, shares, powers, strict=True))
    work = generator.uniform(1, 10, len(sizes))
    pairs = {(i, i + 1): work[i] * np.outer(shares[i], shares[i + 1]) for i in range(len(sizes) - 1)}
    cost = Additive(unary=tuple(work[i] * share for i, share in enumerate(shares)), pairs=pairs)
    return Problem(sizes, Additive(unary=loss, pairs={}), Counted(cost))
