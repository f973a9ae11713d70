"""What searches after training share: an objective asked once per width, budgets, and candidates that keep them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isnan, prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.costs import Cost
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search.additive import Floats
from slimmable.search.pareto import Front, Point

Objective: TypeAlias = Callable[[Sequence[Widths]], Sequence[float]]
"""Losses of a batch of widths, in their order; lower is better."""

Places: TypeAlias = NDArray[np.int64]
"""Candidates, ``(N, D)``: for each independent width the place of a choice, 0 for the fewest channels."""

_HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that widths may cost.

    Args:
        cost: What is bounded.
        most: In the unit of ``cost``; infinity, the default, bounds nothing, but the cost is counted and traded off.

    Raises:
        SearchError: ``most`` is not a number.
    """

    cost: Cost
    most: float = inf

    def __post_init__(self) -> None:
        if isnan(self.most):
            raise SearchError(f"the budget of {self.cost.name} is {self.most}; expected a number of {self.cost.unit}")


class Trials:
    """The evaluations of one search: each candidate once, never more than agreed, and costs beside them.

    Args:
        space: Where to search.
        objective: What is minimised.
        budgets: At least one; all have to be kept.
        trials: Most evaluations of ``objective``.
        progress: Whether to show a bar; see :meth:`watched`.

    Raises:
        SearchError: A space without independent widths, no budget, two budgets of one name, no trials, or a budget
            that the smallest widths exceed; the message states what they cost.
    """

    def __init__(
        self, space: WidthSpace, objective: Objective, budgets: Sequence[Budget], *, trials: int, progress: bool = False
    ) -> None:
        if not len(space):
            raise SearchError("the width space has no independent width; there is nothing to search")
        names = [budget.cost.name for budget in budgets]
        if not names or len(set(names)) < len(names):
            raise SearchError(f"expected budgets of one or more costs of different names, got {names}")
        if trials < 1:
            raise SearchError(f"expected at least 1 trial, got {trials}")
        self.space, self.trials = space, trials
        self.sizes = np.array([len(leader.choices) for leader, *_ in space.dimensions])
        self.limits = np.array([budget.most for budget in budgets])
        self._objective, self._budgets, self._progress = objective, tuple(budgets), progress
        self._widths: dict[tuple[int, ...], Widths] = {}
        self._costs: dict[tuple[int, ...], tuple[float, ...]] = {}
        self._points: dict[tuple[int, ...], Point] = {}
        self._advance: Callable[[int], None] = lambda count: None
        self.smallest: Places = np.zeros_like(self.sizes)
        self.largest: Places = self.sizes - 1
        self._least, self._greatest = self.costs(np.stack([self.smallest, self.largest]))
        for budget, least in zip(self._budgets, self._least, strict=True):
            if least > budget.most:
                raise SearchError(
                    f"no widths keep to {budget.most:g} {budget.cost.unit} of {budget.cost.name}: "
                    f"the smallest need {least:g} {budget.cost.unit}; raise the budget"
                )

    @property
    def left(self) -> int:
        """Evaluations that may still be made; 0 too when every candidate is evaluated."""
        return min(self.trials, prod(self.sizes.tolist())) - len(self._points)

    def new(self, places: Places) -> Places:
        """The candidates not evaluated yet, each once, as many as may be."""
        rows = dict.fromkeys(tuple(row) for row in places.tolist())
        found = [row for row in rows if row not in self._points][: self.left]
        return np.array(found, dtype=np.int64).reshape(-1, len(self.sizes))

    def costs(self, places: Places) -> Floats:
        """Costs of candidates, ``(N, costs)``; each candidate is asked for once."""
        rows = [tuple(row) for row in places.tolist()]
        new = [row for row in dict.fromkeys(rows) if row not in self._costs]
        if new:
            widths = self._widths_of(new)
            table = np.stack([self._cost(budget.cost, widths) for budget in self._budgets], axis=1)
            self._costs.update(zip(new, map(tuple, table.tolist()), strict=True))
        return np.array([self._costs[row] for row in rows]).reshape(len(rows), len(self._budgets))

    def keep(self, places: Places) -> NDArray[np.bool_]:
        """Whether candidates keep to all budgets, ``(N,)``."""
        return np.all(self.costs(places) <= self.limits, axis=1)

    def losses(self, places: Places) -> Floats:
        """Losses of candidates, ``(N,)``; those met for the first time are evaluated in one batch.

        Raises:
            SearchError: Another number of losses than of widths, or one that is not finite.
        """
        new = [tuple(row) for row in self.new(places).tolist()]
        if new:
            widths = self._widths_of(new)
            found = [float(loss) for loss in self._objective(widths)]
            if len(found) != len(widths):
                raise SearchError(f"the objective gave {len(found)} losses for {len(widths)} widths")
            costs = self.costs(np.array(new))
            for row, kept, loss, paid in zip(new, widths, found, costs.tolist(), strict=True):
                by_name = {budget.cost.name: cost for budget, cost in zip(self._budgets, paid, strict=True)}
                self._points[row] = Point(widths=kept, costs=by_name, loss=loss)
            self._advance(len(new))
        return np.array([self._points[tuple(row)].loss for row in places.tolist()])

    def losses_of(self, widths_list: Sequence[Widths]) -> list[float]:
        """Losses of widths that belong to the space, as :meth:`losses`."""
        leaders = [leader for leader, *_ in self.space.dimensions]
        rows = [[leader.choices.index(widths[leader.name]) for leader in leaders] for widths in widths_list]
        return self.losses(np.array(rows, dtype=np.int64)).tolist()

    def near(self, places: Places, limits: Floats) -> Places:
        r"""Candidates moved as a whole until they cost just below their limits.

        All widths are moved by one share :math:`t`, towards the largest (:math:`t > 0`) or the smallest
        (:math:`t < 0`), which keeps the proportions a candidate was drawn with; the largest :math:`t` within the limits
        is found by halving.

        Args:
            places: Candidates, ``(N, D)``.
            limits: Most that each may cost, ``(N, costs)``; the smallest widths keep to it.
        """
        shares = places / self.largest
        low, high = np.full(len(places), -1.0), np.full(len(places), 1.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            kept = np.all(self.costs(self._moved(shares, middle)) <= limits, axis=1)
            low, high = np.where(kept, middle, low), np.where(kept, high, middle)
        return self._moved(shares, low)

    def spread(self, count: int, generator: np.random.Generator) -> Places:
        """Random candidates whose costs lie evenly between those of the smallest widths and the budgets."""
        drawn = generator.integers(self.sizes, size=(count, len(self.sizes)))
        levels = ((np.arange(count) + 1) / count)[:, None]
        top = np.maximum(np.minimum(self.limits, self._greatest), self._least)
        return self.near(drawn, self._least + levels * (top - self._least))

    def repaired(self, places: Places, generator: np.random.Generator) -> Places:
        """Candidates of which random widths were lowered, choice by choice, until they keep to all budgets."""
        places = places.copy()
        while (over := np.flatnonzero(~self.keep(places))).size:
            keys = np.where(places[over] > 0, generator.random((len(over), len(self.sizes))), -1.0)
            places[over, keys.argmax(1)] -= 1
        return places

    def front(self) -> Front:
        """The front of all that was evaluated."""
        return Front(self._points.values())

    @contextmanager
    def watched(self, description: str) -> Iterator[None]:
        """A bar that counts the trials made inside the block, if progress was wished for.

        Raises:
            MissingDependencyError: A bar is wished for and rich is not installed.
        """
        if not self._progress:
            yield
            return
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError as error:
            raise MissingDependencyError("a progress bar needs rich: pip install 'slimmable[search]'") from error
        with Progress(console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task(description, total=self.left)
            self._advance = lambda count: bars.update(bar, advance=count)
            yield

    def _widths_of(self, rows: Sequence[tuple[int, ...]]) -> list[Widths]:
        for row in rows:
            if row not in self._widths:
                chosen = zip(self.space.dimensions, row, strict=True)
                self._widths[row] = self.space.led([leader.choices[place] for (leader, *_), place in chosen])
        return [self._widths[row] for row in rows]

    @staticmethod
    def _cost(cost: Cost, widths: Sequence[Widths]) -> Floats:
        found = np.asarray(cost(widths), dtype=np.float64)
        if found.shape != (len(widths),) or not np.isfinite(found).all():
            raise SearchError(
                f"the cost {cost.name!r} gave an array of shape {found.shape} for {len(widths)} widths; expected one "
                "finite number for each"
            )
        return found

    def _moved(self, shares: Floats, by: Floats) -> Places:
        step = by[:, None]
        moved = np.where(step < 0, shares * (1 + step), shares + step * (1 - shares))
        return np.rint(moved * self.largest).astype(np.int64)
