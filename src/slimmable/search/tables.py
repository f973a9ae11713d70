"""Losses and costs of widths as additive functions of one choice for every independent width."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np

from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.costs import Cost
from slimmable.errors import SearchError
from slimmable.search.additive import Additive, Floats, Pair

_PROBES = 32
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """The channel counts among which a search chooses, for every independent width of a space.

    Args:
        space: The width space.
        channels: Ascending channel counts of the first group of every dimension of the space.
    """

    space: WidthSpace
    channels: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(space: WidthSpace, *, most: int | None = None) -> Alternatives:
        """All channel counts, or those of at most ``most`` ratios spread evenly over the range of each width.

        With ``most=14`` on ratios from 0.2 to 1.5 these are the choices of the multi-platform paper (section 4.1).

        Raises:
            SearchError: ``most`` below 2.
        """
        if most is not None and most < 2:
            raise SearchError(f"expected at least 2 choices for every width, got {most}")
        leaders = [leader for leader, *_ in space.dimensions]
        if most is None:
            return Alternatives(space=space, channels=tuple(leader.choices for leader in leaders))
        ratios = np.linspace(space.min_ratio, space.max_ratio, most).tolist()
        chosen = [tuple(sorted({leader.at(ratio) for ratio in ratios})) for leader in leaders]
        return Alternatives(space=space, channels=tuple(chosen))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of alternatives of each width."""
        return tuple(map(len, self.channels))

    def widths(self, choices: Sequence[int]) -> Widths:
        """The widths at one alternative for each."""
        return self.space.led([these[choice] for these, choice in zip(self.channels, choices, strict=True)])

    def choices(self, widths: Widths) -> tuple[int, ...]:
        """For each width the place of the alternative nearest to ``widths``."""
        leaders = (leader for leader, *_ in self.space.dimensions)
        kept = (widths[leader.name] for leader in leaders)
        return tuple(
            min(range(len(these)), key=lambda i: abs(these[i] - channels))
            for these, channels in zip(self.channels, kept, strict=True)
        )

    def draw(self, generator: random.Random) -> tuple[int, ...]:
        """One alternative for each width, all equally likely."""
        return tuple(generator.randrange(size) for size in self.sizes)


def additive(cost: Cost, alternatives: Alternatives) -> Additive:
    r"""``cost`` as a sum of terms of one and of two widths, found by evaluating it.

    With a reference :math:`r`, :math:`u_i(x) = f(x_i, r) - f(r)` and
    :math:`p_{ij}(x, y) = f(x_i, y_j, r) - f(x_i, r) - f(y_j, r) + f(r)` give :math:`f` wherever it has that form: MACs
    and parameters of most networks, fitted latencies and tables of layers do, peaks of memory do not.

    Raises:
        SearchError: The cost has no such form; found by comparing it with the sum at random widths.

    Cost:
        One evaluation of ``cost`` for every entry of every table.
    """
    sizes = alternatives.sizes
    zero: tuple[int, ...] = (0,) * len(sizes)

    def evaluate(many: Sequence[tuple[int, ...]]) -> Floats:
        return np.asarray(cost([alternatives.widths(choices) for choices in many]), dtype=np.float64)

    def at(*places: tuple[int, int]) -> tuple[int, ...]:
        choices: list[int] = list(zero)
        for place, choice in places:
            choices[place] = choice
        return tuple(choices)

    [base] = evaluate([zero])
    single = [evaluate([at((i, x)) for x in range(size)]) - base for i, size in enumerate(sizes)]
    pairs: dict[Pair, Floats] = {}
    for i, j in _interacting(evaluate, at, single, base):
        grid = [at((i, x), (j, y)) for x, y in product(range(sizes[i]), range(sizes[j]))]
        pairs[i, j] = evaluate(grid).reshape(sizes[i], sizes[j]) - single[i][:, None] - single[j] - base
    if single:
        single[0] = single[0] + base
    found = Additive(unary=tuple(single), pairs=pairs)
    generator = random.Random(0)
    probes = [alternatives.draw(generator) for _ in range(_PROBES)]
    expected, values = evaluate(probes), np.array([found(probe) for probe in probes])
    apart = np.abs(values - expected) / np.maximum(np.abs(expected), 1e-30)
    if apart.max(initial=0.0) > _TOLERANCE:
        raise SearchError(
            f"{cost.name} is no sum of terms of one and of two widths: at random widths it differs from one by up to "
            f"{apart.max():.1%}; search with a method that takes any cost, such as nsga2, evolution or random"
        )
    return found


def _interacting(
    evaluate: Callable[[Sequence[tuple[int, ...]]], Floats],
    at: Callable[..., tuple[int, ...]],
    single: Sequence[Floats],
    base: float,
) -> list[Pair]:
    """Pairs of widths whose joint effect is not the sum of their own."""
    generator = random.Random(1)
    pairs = list(combinations(range(len(single)), 2))
    met: set[Pair] = set()
    for attempt in range(3):
        chosen = [
            [len(single[k]) - 1 if attempt == 0 else generator.randrange(len(single[k])) for k in pair]
            for pair in pairs
        ]
        joint = evaluate([at((i, x), (j, y)) for (i, j), (x, y) in zip(pairs, chosen, strict=True)]) if pairs else []
        for (i, j), (x, y), value in zip(pairs, chosen, joint, strict=True):
            apart = value - single[i][x] - single[j][y] - base
            if abs(apart) > _TOLERANCE * max(abs(value), 1e-30):
                met.add((i, j))
    return sorted(met)
