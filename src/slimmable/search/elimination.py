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


@dataclass(frozen=True)
class _Part:
    """A table that enters a step, and how its axes are laid along those of the step."""

    kind: str
    key: int | Pair
    order: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Step:
    """The elimination of ``variable``, whose remaining neighbours are ``scope``; its table has these axes in order."""

    variable: int
    scope: tuple[int, ...]
    parts: tuple[_Part, ...]


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
        self._steps = self._plan()

    def minimum(self, function: Additive) -> tuple[float, tuple[int, ...]]:
        """The least value, and the choices that have it (of equal ones the first)."""
        value, tables = self._forward(function, lambda table: table.min(-1))
        return value, self._choose(lambda place, chosen: int(tables[place][chosen].argmin()))

    def soft_minimum(self, function: Additive, temperature: float) -> float:
        r""":math:`-T \log \sum_x e^{-f(x) / T}`, which tends to the minimum as ``temperature`` falls to 0."""
        return self._soft(function, temperature)[0]

    def marginals(self, function: Additive, temperature: float) -> tuple[Floats, ...]:
        r"""Probabilities of each variable's alternatives, of shapes ``(K_i,)``, if :math:`p(x) \propto e^{-f(x)/T}`."""
        _, tables = self._soft(function, temperature)
        joints: dict[int, Floats] = {}
        found: dict[int, Floats] = {}
        for place in reversed(range(len(self._steps))):
            step = self._steps[place]
            scope = self._marginal(step.scope, place, joints)
            joints[place] = scope[..., None] * _distribution(tables[place], temperature)
            found[step.variable] = joints[place].reshape(-1, self.sizes[step.variable]).sum(0)
        return tuple(found[variable] for variable in range(len(self.sizes)))

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
        return self._forward(function, lambda table: -temperature * _log_sum_exp(-table / temperature))

    def _forward(self, function: Additive, reduce: Callable[[Floats], Floats]) -> tuple[float, list[Floats]]:
        """The reduced value, and the table of every step."""
        if function.sizes != self.sizes:
            raise SearchError(f"the function has choices of {function.sizes} alternatives, expected {self.sizes}")
        if unknown := [pair for pair in function.pairs if pair not in self.pairs]:
            raise SearchError(f"the function has a term of places {unknown[0]}, which the elimination does not know")
        messages: list[Floats] = []
        tables: list[Floats] = []
        for step in self._steps:
            table = np.zeros(tuple(self.sizes[v] for v in (*step.scope, step.variable)))
            for part in step.parts:
                source = self._source(part, function, messages)
                if source is not None:
                    table += source.transpose(part.order).reshape(part.shape)
            tables.append(table)
            messages.append(reduce(table))
        value = sum(float(message) for message, step in zip(messages, self._steps, strict=True) if not step.scope)
        return value, tables

    @staticmethod
    def _source(part: _Part, function: Additive, messages: Sequence[Floats]) -> Floats | None:
        if isinstance(part.key, tuple):
            return function.pairs.get(part.key)
        return function.unary[part.key] if part.kind == "unary" else messages[part.key]

    def _choose(self, decide: Callable[[int, tuple[int, ...]], int]) -> tuple[int, ...]:
        """One alternative for each variable, last eliminated first, given those of its scope."""
        chosen: dict[int, int] = {}
        for place in reversed(range(len(self._steps))):
            step = self._steps[place]
            chosen[step.variable] = decide(place, tuple(chosen[variable] for variable in step.scope))
        return tuple(chosen[variable] for variable in range(len(self.sizes)))

    def _marginal(self, scope: tuple[int, ...], before: int, joints: dict[int, Floats]) -> Floats:
        """The joint distribution of a step's scope, from that of the later step which holds all of it."""
        if not scope:
            return np.ones(())
        place = next(p for p in range(before + 1, len(self._steps)) if self._steps[p].variable in scope)
        axes = (*self._steps[place].scope, self._steps[place].variable)
        joint = joints[place].sum(tuple(i for i, variable in enumerate(axes) if variable not in scope))
        kept = [variable for variable in axes if variable in scope]
        return joint.transpose([kept.index(variable) for variable in scope])

    def _plan(self) -> tuple[_Step, ...]:
        neighbours: dict[int, set[int]] = {variable: set() for variable in range(len(self.sizes))}
        for i, j in self.pairs:
            neighbours[i].add(j)
            neighbours[j].add(i)
        waiting: list[tuple[str, int | Pair, tuple[int, ...]]] = [("unary", v, (v,)) for v in neighbours]
        waiting += [("pair", pair, pair) for pair in self.pairs]
        steps: list[_Step] = []
        while neighbours:
            variable = min(neighbours, key=lambda v: (prod(self.sizes[n] for n in neighbours[v]) * self.sizes[v], v))
            scope = tuple(sorted(neighbours.pop(variable)))
            axes = (*scope, variable)
            if prod(self.sizes[v] for v in axes) > _LARGEST_TABLE:
                raise SearchError(
                    f"exact search would need a table over {len(axes)} variables at once; give fewer alternatives to "
                    "each (a larger divisor), tie groups, or use a search that is not exact"
                )
            met = [entry for entry in waiting if variable in entry[2]]
            waiting = [entry for entry in waiting if variable not in entry[2]]
            parts = tuple(_Part(kind, key, *_laid(of, axes, self.sizes)) for kind, key, of in met)
            waiting.append(("message", len(steps), scope))
            steps.append(_Step(variable, scope, parts))
            for neighbour in scope:
                neighbours[neighbour] |= {other for other in scope if other != neighbour}
                neighbours[neighbour].discard(variable)
        return tuple(steps)


def _laid(of: tuple[int, ...], axes: tuple[int, ...], sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
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
