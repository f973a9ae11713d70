r"""Exact minima, soft minima and marginals of additive functions, by elimination of one variable after the other.

To eliminate a variable is to replace all terms that it occurs in by one table over its neighbours: its minimum over the
variable (Viterbi's recursion, where the graph is a chain) or its soft minimum :math:`-T \log \sum e^{-f / T}`. The
tables stay small where the graph of terms is close to a tree, as those of residual networks are.

References:
    Dechter. Bucket Elimination: A Unifying Framework for Reasoning. Artificial Intelligence, 1999.
    Optimizing Slimmable Networks for Multiple Target Platforms, Eq. 2 and 5 (with the soft minimum in the domain of
    costs: ``m_{i+1}(c') = u_{i+1}(c') - T log sum_c exp(-(m_i(c) + p(c, c')) / T)``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from slimmable.errors import SearchError
from slimmable.search.additive import Additive, Floats, Pair

_LARGEST_TABLE = 50_000_000


Laid = tuple[tuple[int, ...], tuple[int, ...]]
"""Order and shape that lay the axes of one table along those of another."""


@dataclass(frozen=True)
class Step:
    """The elimination of ``variable``, whose remaining neighbours are ``scope``; its table has these axes in order.

    Attributes:
        variable: What is eliminated.
        scope: The variables over which the step leaves a table.
        terms: Unary terms (by variable) and pairwise ones (by pair) that enter, and how they are laid.
        messages: Earlier steps whose tables enter, and how they are laid.
    """

    variable: int
    scope: tuple[int, ...]
    terms: tuple[tuple[int | Pair, tuple[int, ...], tuple[int, ...]], ...]
    messages: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]


class Elimination:
    """The order in which the variables of a graph are eliminated, worked out once for all functions on it.

    Args:
        sizes: Number of alternatives of each variable.
        pairs: Places of the variables that share a term.

    Raises:
        SearchError: The graph is so far from a tree that a table would have over fifty million entries.

    Cost:
        ``minimum`` on a chain of ``n`` variables of ``K`` alternatives takes ``n K^2`` additions.

    Example:
        >>> f = Additive(unary=(np.zeros(2), np.array([0.5, 0.0])), pairs={(0, 1): np.array([[0.0, 3.0], [1.0, 2.0]])})
        >>> Elimination(f.sizes, f.pairs).minimum(f)
        (0.5, (0, 0))
    """

    def __init__(self, sizes: Sequence[int], pairs: Iterable[Pair]) -> None:
        self.sizes, self.pairs = tuple(sizes), tuple(dict.fromkeys(pairs))
        self.steps = self._plan()

    def minimum(self, function: Additive) -> tuple[float, tuple[int, ...]]:
        """The least value, and the choices that have it (of equal ones the first)."""
        return self.minimum_of(self.tables(function))

    def minimum_of(self, tables: Sequence[Floats]) -> tuple[float, tuple[int, ...]]:
        """As :meth:`minimum`, of what :meth:`tables` made of a function (or a sum of such)."""
        value, whole = self._forward(tables, lambda table: table.min(-1))
        return value, self._choose(lambda place, chosen: int(whole[place][chosen].argmin()))

    def soft_minimum(self, function: Additive, temperature: float) -> float:
        r""":math:`-T \log \sum_x e^{-f(x) / T}`, which tends to the minimum as ``temperature`` falls to 0."""
        return self._soft(function, temperature)[0]

    def marginals(self, function: Additive, temperature: float) -> tuple[Floats, ...]:
        r"""Probabilities of each variable's alternatives, of shapes ``(K_i,)``, if :math:`p(x) \propto e^{-f(x)/T}`."""
        _, tables = self._soft(function, temperature)
        joints = self._joints([_distribution(table, temperature) for table in tables], np.multiply, np.add)
        found = {
            step.variable: joint.reshape(-1, joint.shape[-1]).sum(0)
            for step, joint in zip(self.steps, joints, strict=True)
        }
        return tuple(found[variable] for variable in range(len(self.sizes)))

    def excesses(self, tables: Sequence[Floats]) -> list[Floats]:
        """How far above the minimum the best choices are that hold an entry of a step's table, for every step.

        Args:
            tables: What :meth:`tables` made of a function.

        Returns:
            Arrays over the scope and the variable of each step, at least 0.
        """
        _, whole = self._forward(tables, lambda table: table.min(-1))
        return self._joints([table - table.min(-1, keepdims=True) for table in whole], np.add, np.minimum)

    def sample(self, function: Additive, temperature: float, generator: np.random.Generator) -> tuple[int, ...]:
        r"""Choices drawn jointly from :math:`p(x) \propto e^{-f(x)/T}`."""
        _, tables = self._soft(function, temperature)

        def draw(place: int, chosen: tuple[int, ...]) -> int:
            weights = _distribution(tables[place][chosen], temperature)
            return int(generator.choice(len(weights), p=weights))

        return self._choose(draw)

    def _soft(self, function: Additive, temperature: float) -> tuple[float, list[Floats]]:
        if not temperature > 0:
            raise SearchError(f"expected a temperature above 0, got {temperature}; minimum() is its limit at 0")
        return self._forward(self.tables(function), lambda table: -temperature * _log_sum_exp(-table / temperature))

    def _forward(self, own: Sequence[Floats], reduce: Callable[[Floats], Floats]) -> tuple[float, list[Floats]]:
        """The reduced value, and the table of every step, messages of earlier steps included."""
        messages: list[Floats] = []
        tables: list[Floats] = []
        for step, table in zip(self.steps, own, strict=True):
            for source, order, shape in step.messages:
                table = table + messages[source].transpose(order).reshape(shape)
            tables.append(table)
            messages.append(reduce(table))
        value = sum(float(message) for message, step in zip(messages, self.steps, strict=True) if not step.scope)
        return value, tables

    def check(self, function: Additive) -> None:
        """Pass if the function's terms are those of this graph.

        Raises:
            SearchError: It has other choices, or a term that the graph lacks.
        """
        if function.sizes != self.sizes:
            raise SearchError(f"the function has choices of {function.sizes} alternatives, expected {self.sizes}")
        if unknown := [pair for pair in function.pairs if pair not in self.pairs]:
            raise SearchError(f"the function has a term of places {unknown[0]}, which the elimination does not know")

    def tables(self, function: Additive) -> list[Floats]:
        """For every step the sum of the function's own terms that enter it, over its scope and its variable."""
        self.check(function)
        found = []
        for step in self.steps:
            table = np.zeros(tuple(self.sizes[v] for v in (*step.scope, step.variable)))
            for key, order, shape in step.terms:
                source = function.pairs.get(key) if isinstance(key, tuple) else function.unary[key]
                if source is not None:
                    table += source.transpose(order).reshape(shape)
            found.append(table)
        return found

    def _choose(self, decide: Callable[[int, tuple[int, ...]], int]) -> tuple[int, ...]:
        """One alternative for each variable, last eliminated first, given those of its scope."""
        chosen: dict[int, int] = {}
        for place in reversed(range(len(self.steps))):
            step = self.steps[place]
            chosen[step.variable] = decide(place, tuple(chosen[variable] for variable in step.scope))
        return tuple(chosen[variable] for variable in range(len(self.sizes)))

    def _joints(self, parts: Sequence[Floats], combine: np.ufunc, reduce: np.ufunc) -> list[Floats]:
        """From tables conditional on each step's scope those of scope and variable together, last step first."""
        joints: dict[int, Floats] = {}
        for place in reversed(range(len(self.steps))):
            scope = self.steps[place].scope
            outer: Floats = np.asarray(combine.identity, dtype=np.float64)
            if scope:  # what is known of it stands in the next step that eliminates one of it
                later = next(p for p in range(place + 1, len(self.steps)) if self.steps[p].variable in scope)
                axes = (*self.steps[later].scope, self.steps[later].variable)
                outer = reduce.reduce(joints[later], axis=tuple(i for i, v in enumerate(axes) if v not in scope))
                kept = [variable for variable in axes if variable in scope]
                outer = outer.transpose([kept.index(variable) for variable in scope])
            joints[place] = combine(outer[..., None], parts[place])
        return [joints[place] for place in range(len(self.steps))]

    def _plan(self) -> tuple[Step, ...]:
        neighbours: dict[int, set[int]] = {variable: set() for variable in range(len(self.sizes))}
        for i, j in self.pairs:
            neighbours[i].add(j)
            neighbours[j].add(i)
        terms: list[tuple[int | Pair, tuple[int, ...]]] = [(v, (v,)) for v in neighbours]
        terms += [(pair, pair) for pair in self.pairs]
        messages: list[tuple[int, tuple[int, ...]]] = []
        steps: list[Step] = []
        while neighbours:
            variable = min(neighbours, key=lambda v: (prod(self.sizes[n] for n in neighbours[v]) * self.sizes[v], v))
            scope = tuple(sorted(neighbours.pop(variable)))
            axes = (*scope, variable)
            if prod(self.sizes[v] for v in axes) > _LARGEST_TABLE:
                raise SearchError(
                    f"exact search would need a table over {len(axes)} variables at once; give fewer alternatives to "
                    "each (a larger divisor), tie groups, or use a search that is not exact"
                )
            laid = [(key, *_laid(of, axes, self.sizes)) for key, of in terms if variable in of]
            sent = [(source, *_laid(of, axes, self.sizes)) for source, of in messages if variable in of]
            terms = [entry for entry in terms if variable not in entry[1]]
            messages = [entry for entry in messages if variable not in entry[1]]
            messages.append((len(steps), scope))
            steps.append(Step(variable, scope, tuple(laid), tuple(sent)))
            for neighbour in scope:
                neighbours[neighbour] |= {other for other in scope if other != neighbour}
                neighbours[neighbour].discard(variable)
        return tuple(steps)


def _laid(of: tuple[int, ...], axes: tuple[int, ...], sizes: Sequence[int]) -> Laid:
    """Order and shape that lay the axes of one table along those of another."""
    order = tuple(of.index(variable) for variable in axes if variable in of)
    return order, tuple(sizes[variable] if variable in of else 1 for variable in axes)


def _log_sum_exp(table: Floats) -> Floats:
    top = table.max(-1)
    return top + np.log(np.exp(table - top[..., None]).sum(-1))


def _distribution(table: Floats, temperature: float) -> Floats:
    """Probabilities along the last axis."""
    weights = np.exp((table.min(-1, keepdims=True) - table) / temperature)
    return weights / weights.sum(-1, keepdims=True)
