"""Fronts of widths that no other widths beat, and figures of how good and how even such fronts are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from slimmable.core.space import Widths
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search.additive import Floats


def non_dominated(values: ArrayLike) -> tuple[int, ...]:
    r"""Places of the rows that no other row dominates, ascending; of equal rows the first.

    All objectives are minimised. Row :math:`y` dominates :math:`x` if :math:`y_i \le x_i` for all :math:`i`, one of
    them strictly; :math:`x` is on the front if and only if no :math:`y` dominates it.

    Args:
        values: One row per point, one column per objective, ``(N, K)``.

    Raises:
        SearchError: Another shape, or a value that is not finite.
        MissingDependencyError: pymoo is not installed.

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. 2020,
        Definition 1.

    Example:
        >>> non_dominated([[1, 4], [2, 2], [2, 3], [1, 4]])
        (0, 1)
    """
    rows = _table(values)
    try:
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    except ImportError as error:
        raise MissingDependencyError("fronts need pymoo: pip install 'slimmable[search]'") from error
    distinct, first = np.unique(rows, axis=0, return_index=True)
    kept = NonDominatedSorting().do(distinct, only_non_dominated_front=True)
    return tuple(sorted(int(first[place]) for place in kept))


def hypervolume(values: ArrayLike, reference: Sequence[float]) -> float:
    r"""The volume between a reference point and all that is dominated by a set of points.

    .. math:: H = \mathrm{vol} \bigcup_x [x_1, r_1] \times \dots \times [x_K, r_K]

    All objectives are minimised. Points that are not below the reference in all objectives add nothing. The figure is
    in the product of the objectives' units: bring them to one scale first if one shall not drown the others.

    Args:
        values: One row per point, one column per objective, ``(N, K)``; dominated points do no harm.
        reference: The worst value of each objective that counts.

    Raises:
        SearchError: Shapes that do not fit, or a value that is not finite.
        MissingDependencyError: pymoo is not installed.

    References:
        Zitzler, Thiele. Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto
        Approach. IEEE Transactions on Evolutionary Computation, 1999.

    Example:
        >>> hypervolume([[1, 2], [2, 1]], reference=[3, 3])
        3.0
    """
    rows, corner = _table(values), _table([reference])[0]
    if len(corner) != rows.shape[1]:
        raise SearchError(f"the reference has {len(corner)} objectives, the points have {rows.shape[1]}")
    try:
        from pymoo.indicators.hv import HV
    except ImportError as error:
        raise MissingDependencyError("hypervolumes need pymoo: pip install 'slimmable[search]'") from error
    within = rows[(rows < corner).all(1)]
    return float(HV(ref_point=corner)(within)) if len(within) else 0.0  # pyright: ignore[reportArgumentType]


def area_under_curve(
    costs: Sequence[float],
    values: Sequence[float],
    *,
    between: tuple[float, float],
    best: Literal["least", "most"] = "least",
) -> float:
    r"""The mean over all budgets between two costs of the best value that a budget affords.

    .. math:: A = \frac{1}{b - a} \int_a^b \operatorname{best}\{v_i : c_i \le c\} \, dc

    The curve is a step: a budget between two points affords the cheaper of them, nothing in between. Divided by the
    range, the area is in the unit of the values, and that of a curve which is level is its height.

    Args:
        costs: Cost of each point.
        values: What each point is worth.
        between: The range of costs, ``(a, b)``.
        best: Whether small values are good (losses, errors) or large ones (accuracies).

    Raises:
        SearchError: Counts that differ, a value that is not finite, an empty range, or no point at its lower end.

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. 2020,
        section 2.1.

    Example:
        >>> area_under_curve([1, 2, 4], [0.9, 0.5, 0.1], between=(1, 5))   # 1 at 0.9, 2 at 0.5, 1 at 0.1
        0.5
    """
    low, high = _range(between)
    order = np.argsort(np.asarray(costs, dtype=float), kind="stable")
    rows = _table(np.column_stack(_same_length(costs, values)))[order]
    if rows[0, 0] > low:
        raise SearchError(f"nothing costs at most {low:g}: the cheapest point costs {rows[0, 0]:g}; start there")
    reached = np.minimum.accumulate(rows[:, 1]) if best == "least" else np.maximum.accumulate(rows[:, 1])
    edges = np.clip(np.append(rows[:, 0], high), low, high)
    return float(np.diff(edges) @ reached / (high - low))


def unevenness(costs: Sequence[float], *, between: tuple[float, float]) -> float:
    r"""How far a front, or a set of samples, is from covering a range of costs evenly, between 0 and 1.

    The largest difference over all costs :math:`c` between the share of the points up to :math:`c` and the share of
    the range up to :math:`c`: the star discrepancy in one dimension, which is Kolmogorov's distance to the uniform
    distribution. ``n`` points at the middles of ``n`` equal parts have :math:`1 / 2n`, the least possible; points that
    are all in one place at an end have 1.

    The largest gap between neighbours would be simpler, but among samples it grows with their number even when they
    are uniform, and it does not see that most of them crowd at one end.

    Args:
        costs: Costs of the points, in any order; those outside the range count as at its nearer end.
        between: The range of costs.

    Raises:
        SearchError: No point, a value that is not finite, or an empty range.

    References:
        Niederreiter. Random Number Generation and Quasi-Monte Carlo Methods. SIAM 1992, chapter 2.

    Example:
        >>> unevenness([1, 3, 5, 7], between=(0, 8)), unevenness([0, 0, 0], between=(0, 8))
        (0.125, 1.0)
    """
    low, high = _range(between)
    shares = np.sort(np.clip((_table([list(costs)])[0] - low) / (high - low), 0.0, 1.0))
    steps = np.arange(len(shares) + 1) / len(shares)
    return float(max((steps[1:] - shares).max(), (shares - steps[:-1]).max()))


@dataclass(frozen=True, kw_only=True)
class Point:
    """Widths with what they cost and how well they do.

    Args:
        widths: The widths.
        costs: Figures by name of the cost.
        loss: What searches minimise.
        figures: Whatever else was measured, by name, such as an accuracy.

    Raises:
        SearchError: A figure that is not finite, or no cost.
    """

    widths: Widths
    costs: Mapping[str, float]
    loss: float
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.costs:
            raise SearchError("a point has no cost; expected at least one")
        for name, value in {**self.figures, **self.costs, "loss": self.loss}.items():
            if not isfinite(value):
                raise SearchError(f"a point has {name} = {value}; expected a finite number")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads."""
        figures = {name: dict(values) for name, values in (("costs", self.costs), ("figures", self.figures))}
        return {"widths": self.widths.to_json(), "loss": self.loss, **figures}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Point:
        """The inverse of :meth:`to_json`."""
        return Point(**{**value, "widths": Widths.from_json(value["widths"])})


@dataclass(frozen=True)
class Front:
    """Points of which none is better than another in the loss and all costs, cheapest first.

    Args:
        points: Any points with the same costs; those that another one dominates, or equals, are left out. They are
            sorted by their first cost, then by the others, then by their loss.

    Raises:
        SearchError: No points, or points with other costs than the first.
        MissingDependencyError: pymoo is not installed.

    Example:
        >>> of = lambda kept, macs, loss: Point(widths=Widths.of({"a": kept}), costs={"macs": macs}, loss=loss)
        >>> front = Front([of(8, 80, 0.3), of(4, 40, 0.5), of(6, 60, 0.7)])
        >>> len(front), front.best(70).widths
        (2, Widths(a=4))
        >>> Front.from_json(front.to_json()) == front
        True
    """

    points: tuple[Point, ...]

    def __init__(self, points: Iterable[Point]) -> None:
        given = tuple(points)
        if not given:
            raise SearchError("a front needs points; none were given")
        names = tuple(given[0].costs)
        for point in given:
            if set(point.costs) != set(names):
                raise SearchError(f"points with costs {names} and {tuple(point.costs)}; expected the same for all")
        rows = [(*(point.costs[name] for name in names), point.loss) for point in given]
        object.__setattr__(self, "points", tuple(given[i] for i in sorted(non_dominated(rows), key=rows.__getitem__)))

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def values(self) -> Floats:
        """Costs and losses, ``(N, costs + 1)``, as :func:`hypervolume` takes them; the loss is the last column."""
        return np.array([(*(point.costs[name] for name in self._names), point.loss) for point in self.points])

    def best(self, most: float | Mapping[str, float]) -> Point:
        """The point with the least loss among those within a budget.

        Args:
            most: Most of the first cost, or most of several costs by name.

        Raises:
            SearchError: An unknown cost, or no point within the budget; the message states what is closest.
        """
        limits = most if isinstance(most, Mapping) else {self._names[0]: most}
        if unknown := [name for name in limits if name not in self._names]:
            raise SearchError(f"the front has no cost {unknown[0]!r}; it has {', '.join(self._names)}")
        within = [p for p in self.points if all(p.costs[name] <= limit for name, limit in limits.items())]
        if not within:
            least = ", ".join(f"{name} {min(point.costs[name] for point in self.points):g}" for name in limits)
            asked = ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
            raise SearchError(f"no point of the front is within {asked}; its least costs are {least}")
        return min(within, key=lambda point: point.loss)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads."""
        return {"points": [point.to_json() for point in self.points]}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Front:
        """The inverse of :meth:`to_json`."""
        return Front([Point.from_json(point) for point in value["points"]])

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.points[0].costs)


def _table(values: ArrayLike) -> Floats:
    """Finite numbers in rows and columns, at least one of each."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise SearchError(f"expected one row per point and one column per objective, got the shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise SearchError("expected finite numbers, got NaN or an infinity")
    return rows


def _same_length(costs: Sequence[float], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    if len(costs) != len(values):
        raise SearchError(f"got {len(costs)} costs and {len(values)} values; expected one value for each cost")
    return costs, values


def _range(between: tuple[float, float]) -> tuple[float, float]:
    low, high = between
    if not (isfinite(low) and isfinite(high) and low < high):
        raise SearchError(f"expected a range of costs from a lower to a higher one, got {between}")
    return low, high
