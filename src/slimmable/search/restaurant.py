"""Market shares: the two-parameter Chinese restaurant process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search.additive import Floats

_STARTS = tuple((discount, distance) for discount in (0.1, 0.7) for distance in (-1.0, 2.0, 5.0))


@dataclass(frozen=True, kw_only=True)
class ChineseRestaurant:
    r"""A random division of customers among tables: of buyers among brands, who follow those before them.

    The first customer opens a table. When :math:`t` customers sit at :math:`k` tables, the next one

    .. math:: \text{opens a table with probability } \frac{\theta + k \alpha}{t + \theta}, \qquad
        \text{joins table } b \text{ with probability } \frac{n_b - \alpha}{t + \theta}.

    A large strength :math:`\theta` gives many tables, a large discount :math:`\alpha` many small ones besides a few
    large ones. The names are those of the field; the text of [2] calls :math:`\alpha` the strength and :math:`\theta`
    the discount, but its formula is this one.

    Args:
        discount: :math:`\alpha`, in ``[0, 1)``; or below 0, for a restaurant with a fixed number of tables.
        strength: :math:`\theta`, above ``-discount``; with a negative discount ``-L * discount``, and ``L`` is the most
            tables there can be.

    Raises:
        SearchError: Values outside these ranges.

    References:
        [1] Pitman. Combinatorial Stochastic Processes. Springer 2006, section 3.2.
        [2] Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Section 3.1.

    Example:
        >>> restaurant = ChineseRestaurant(discount=0.3, strength=0.15)
        >>> sum(restaurant.draw(100, np.random.default_rng(0)))
        100
        >>> round(restaurant.expected_tables(100), 3)
        5.787
    """

    discount: float
    strength: float

    def __post_init__(self) -> None:
        shown = f"ChineseRestaurant(discount={self.discount}, strength={self.strength})"
        if not (math.isfinite(self.discount) and math.isfinite(self.strength)) or self.discount >= 1:
            raise SearchError(f"{shown}; expected finite numbers and a discount below 1")
        if self.discount >= 0 and self.strength <= -self.discount:
            raise SearchError(f"{shown}; expected a strength above {-self.discount}")
        if self.discount < 0 and self.most_tables < 1 - 1e-9:
            raise SearchError(f"{shown}; a negative discount needs a strength of -L * discount, L a whole number")
        if self.discount < 0 and abs(self.most_tables * -self.discount - self.strength) > 1e-9 * self.strength:
            raise SearchError(
                f"{shown}; a negative discount needs a strength of -L * discount, L a whole number: "
                f"{-self.most_tables * self.discount:g} allows {self.most_tables:g} tables"
            )

    @property
    def most_tables(self) -> float:
        """The most tables there can be: infinity, unless the discount is negative."""
        return float(round(self.strength / -self.discount)) if self.discount < 0 else math.inf

    def draw(self, customers: int, generator: np.random.Generator) -> tuple[int, ...]:
        """Customers at each table, in the order in which the tables were opened.

        Args:
            customers: How many come.
            generator: What to draw with.

        Raises:
            SearchError: No customers.
        """
        _check_customers(customers)

        def opens(t: int, tables: int) -> float:
            return (self.strength + self.discount * tables) / (t + self.strength) if tables < self.most_tables else 0.0

        return self._seat(customers, opens, generator)

    def draw_with_tables(self, customers: int, tables: int, generator: np.random.Generator) -> tuple[int, ...]:
        r"""Customers at each table, given how many tables there are in the end; exact, no draw is thrown away.

        Let :math:`W_t(k)` be the weight of all ways to go on from :math:`k` tables at time :math:`t` to the wanted
        number :math:`K` at time :math:`n`,

        .. math:: W_t(k) = (t - k \alpha) \, W_{t+1}(k) + W_{t+1}(k + 1), \qquad W_n(k) = [k = K].

        The next customer opens a table with probability :math:`W_{t+1}(k + 1) / W_t(k)`, and joins one in proportion to
        :math:`n_b - \alpha` otherwise. The strength cancels: given the number of tables it says nothing more.

        Args:
            customers: How many come.
            tables: At how many tables they sit.
            generator: What to draw with.

        Raises:
            SearchError: Fewer customers than tables, or more tables than there can be.

        Cost:
            ``customers * tables`` numbers.

        References:
            [1], section 3.2; the weights from :math:`W_1(1)` on are generalized Stirling numbers.

        Example:
            >>> ChineseRestaurant(discount=0.3, strength=0.15).draw_with_tables(100, 5, np.random.default_rng(0))
            (39, 36, 22, 1, 2)
        """
        _check_customers(customers)
        if not 1 <= tables <= min(customers, self.most_tables):
            most = f"{min(customers, self.most_tables):g}"
            raise SearchError(f"{customers} customers cannot sit at {tables} tables; expected 1 to {most}")
        log_ways = self._log_ways(customers, tables)

        def opens(t: int, taken: int) -> float:
            if taken == tables:
                return 0.0
            return math.exp(log_ways[t + 1, taken + 1] - log_ways[t, taken])

        return self._seat(customers, opens, generator)

    def log_probability(self, sizes: Sequence[int]) -> float:
        r"""The logarithm of the probability of one division of the customers into tables of these sizes.

        It is that of one particular set of customers at each table, whatever the order in which they came: the
        exchangeable partition probability function

        .. math:: p(n_1 \ldots n_k) = \frac{\prod_{i=1}^{k-1} (\theta + i \alpha)}{(\theta + 1)_{n-1}}
            \prod_{b=1}^{k} (1 - \alpha)_{n_b - 1}, \qquad (x)_m = x (x + 1) \cdots (x + m - 1).

        Args:
            sizes: Customers at each table, in any order.

        Returns:
            A natural logarithm; minus infinity where there cannot be so many tables.

        Raises:
            SearchError: No tables, or one without customers.

        References:
            [1], section 3.2.

        Example:
            >>> round(math.exp(ChineseRestaurant(discount=0.0, strength=1.0).log_probability([2, 1])), 6)   # 1 / 3!
            0.166667
        """
        counts = _checked(sizes)
        if len(counts) > self.most_tables:
            return -math.inf
        opened = sum(math.log(self.strength + i * self.discount) for i in range(1, len(counts)))
        came = math.lgamma(self.strength + sum(counts)) - math.lgamma(self.strength + 1)
        base = math.lgamma(1 - self.discount)
        return opened - came + sum(math.lgamma(count - self.discount) - base for count in counts)

    def expected_tables(self, customers: int) -> float:
        r"""The mean number of tables: :math:`E_1 = 1`, :math:`E_{t+1} = E_t + (\theta + \alpha E_t) / (t + \theta)`.

        Raises:
            SearchError: No customers.
        """
        _check_customers(customers)
        mean = 1.0
        for t in range(1, customers):
            mean += (self.strength + self.discount * mean) / (t + self.strength)
        return mean

    @staticmethod
    def fit(sizes: Sequence[float], *, customers: int | None = None) -> ChineseRestaurant:
        r"""The restaurant with a discount in ``[0, 1)`` under which a division of customers is most probable.

        Maximises :meth:`log_probability` from several starts. The discount is found the better the more tables there
        are; the strength keeps a spread that no number of customers removes, since it acts on the first tables only.

        Args:
            sizes: Customers at each table; or shares in any unit, if ``customers`` is given.
            customers: How many customers the shares stand for. They are divided in proportion, what is left over by the
                largest remainders. More customers make the same shares weigh more.

        Raises:
            SearchError: Sizes that are not whole numbers above 0 where no customers are given, a share that is not
                positive or too small for a single customer, one table only, or nobody who joined another.
            MissingDependencyError: scipy is not installed.

        Example:
            >>> ChineseRestaurant.fit([0.62, 0.26, 0.09, 0.02, 0.01], customers=100).discount < 0.3
            True
        """
        counts = np.array(_checked(sizes if customers is None else _whole(sizes, customers)), dtype=float)
        if len(counts) < 2 or counts.max() < 2:
            raise SearchError(
                f"the tables {tuple(sizes)} fit best at no finite strength; expected two or more, one shared"
            )
        try:
            from scipy.optimize import minimize
            from scipy.special import gammaln
        except ImportError as error:
            raise MissingDependencyError("fitting needs scipy: pip install 'slimmable[search]'") from error
        places, total = np.arange(1, len(counts)), counts.sum()

        def surprise(x: Floats) -> float:
            discount, strength = float(x[0]), math.exp(x[1]) - float(x[0])
            opened = np.log(strength + places * discount).sum() - gammaln(strength + total) + gammaln(strength + 1)
            return -float(opened + (gammaln(counts - discount) - gammaln(1 - discount)).sum())

        bounds = [(0.0, 1 - 1e-9), (-25.0, 25.0)]
        found = [minimize(surprise, np.array(start), method="L-BFGS-B", bounds=bounds) for start in _STARTS]
        discount, distance = min(found, key=lambda result: result.fun).x
        return ChineseRestaurant(discount=float(discount), strength=math.exp(distance) - float(discount))

    def _seat(
        self, customers: int, opens: Callable[[int, int], float], generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Tables filled one customer after the other; ``opens`` says with what probability the next one opens one."""
        joined: list[int] = []  # the table of everyone who did not open one
        tables = 1
        for t, (first, second) in enumerate(generator.random((customers - 1, 2)).tolist(), start=1):
            if first < opens(t, tables):
                tables += 1
                continue
            # n_b - alpha is 1 for each of those who joined, and 1 - alpha for the one who opened the table
            place = second * (t - tables * self.discount)
            table = joined[int(place)] if place < len(joined) else int((place - len(joined)) / (1 - self.discount))
            joined.append(min(table, tables - 1))
        return tuple(int(count) for count in 1 + np.bincount(np.array(joined, dtype=int), minlength=tables))

    def _log_ways(self, customers: int, tables: int) -> Floats:
        """Logarithms of ``W_t(k)``, ``(customers + 1, tables + 2)``."""
        ways = np.full((customers + 1, tables + 2), -np.inf)
        ways[customers, tables] = 0.0
        places = np.arange(1, tables + 1)
        for t in range(customers - 1, 0, -1):
            reached = places[: min(t, tables)]
            ways[t, reached] = np.logaddexp(
                np.log(t - reached * self.discount) + ways[t + 1, reached], ways[t + 1, reached + 1]
            )
        return ways


def _whole(shares: Sequence[float], customers: int) -> list[int]:
    """``customers`` divided in proportion to ``shares``."""
    _check_customers(customers)
    parts = np.asarray(shares, dtype=float)
    if parts.ndim != 1 or not len(parts) or not np.isfinite(parts).all() or parts.min() <= 0:
        raise SearchError(f"expected positive shares, got {tuple(shares)}")
    exact = parts / parts.sum() * customers
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: customers - counts.sum()]] += 1
    if counts.min() < 1:
        raise SearchError(f"a share of {parts.min() / parts.sum():.2g} has none of {customers} customers; give more")
    return counts.tolist()


def _check_customers(customers: int) -> None:
    if customers < 1:
        raise SearchError(f"expected at least 1 customer, got {customers}")


def _checked(sizes: Sequence[float]) -> tuple[int, ...]:
    if not len(sizes) or not all(size >= 1 and size % 1 == 0 for size in sizes):
        raise SearchError(f"expected a whole number of customers, 1 or more, at each table, got {tuple(sizes)}")
    return tuple(int(size) for size in sizes)
