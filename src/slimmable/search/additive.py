"""Functions of many choices that are sums of terms of one and of two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimmable.errors import SearchError

Floats = NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Additive:
    r"""A function of choices :math:`x_1 \ldots x_n`, of which :math:`x_i` is one of :math:`K_i` alternatives.

    .. math:: f(x) = \sum_i u_i(x_i) + \sum_{(i, j)} p_{ij}(x_i, x_j)

    Losses and costs of a network's widths are such functions: what a layer costs depends on its own width and on that
    of the layer before it.

    Args:
        unary: A table of shape ``(K_i,)`` for every choice.
        pairs: Tables of shape ``(K_i, K_j)`` by places ``i < j``.

    >>> f = Additive(unary=(np.array([0.0, 1.0]), np.zeros(3)), pairs={(0, 1): np.arange(6.0).reshape(2, 3)})
    >>> f([1, 2])
    6.0
    """

    unary: tuple[Floats, ...]
    pairs: Mapping[Pair, Floats]

    def __post_init__(self) -> None:
        for (i, j), table in self.pairs.items():
            if not 0 <= i < j < len(self.unary):
                raise SearchError(f"expected pairs of places i < j below {len(self.unary)}, got {(i, j)}")
            expected = (len(self.unary[i]), len(self.unary[j]))
            if table.shape != expected:
                raise SearchError(f"the table of places {(i, j)} has shape {table.shape}, expected {expected}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of alternatives of each choice."""
        return tuple(map(len, self.unary))

    def __call__(self, choices: Sequence[int]) -> float:
        """The value at one alternative for each choice."""
        single = sum(table[choice] for table, choice in zip(self.unary, choices, strict=True))
        return float(single + sum(table[choices[i], choices[j]] for (i, j), table in self.pairs.items()))

    def plus(self, other: Additive, factor: float) -> Additive:
        """This function plus ``factor`` times another of the same choices.

        Raises:
            SearchError: The other has other choices.
        """
        if self.sizes != other.sizes:
            raise SearchError(f"the functions have choices of {self.sizes} and {other.sizes} alternatives")
        unary = tuple(mine + factor * its for mine, its in zip(self.unary, other.unary, strict=True))
        pairs = {
            pair: self.pairs.get(pair, 0.0) + factor * other.pairs.get(pair, np.zeros(()))
            for pair in {**self.pairs, **other.pairs}
        }
        return Additive(unary=unary, pairs=pairs)

    def times(self, factor: float) -> Additive:
        """This function times a number."""
        pairs = {pair: factor * table for pair, table in self.pairs.items()}
        return Additive(unary=tuple(factor * table for table in self.unary), pairs=pairs)
