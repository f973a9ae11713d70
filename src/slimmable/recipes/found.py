"""Widths that a training itself has found: PareCO's front, and the platforms' best of OWS and AOWS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.cost.costs import Cost
from slimmable.recipes.budgets import read_cost
from slimmable.recipes.config import Recipe
from slimmable.recipes.methods import OwsMethod, PareCoMethod, PlatformsMethod
from slimmable.recipes.widths import NamedWidths, name_ratios
from slimmable.record import atomic_write_json
from slimmable.search import Additive, Alternatives, Elimination, additive, fill_budget
from slimmable.search.ows import Ows
from slimmable.search.pareco import PareCo
from slimmable.search.platforms import Platform
from slimmable.search.statistics import falling
from slimmable.train import WidthSampler

FOUND = "found.json"
STATISTICS = "statistics.json"


def found_widths(
    method: object, sampler: WidthSampler, net: SlimmableModel, folder: Path | None = None
) -> list[NamedWidths]:
    """What a method has found while it trained, by name; kept in ``folder`` as a file of widths by name.

    Args:
        method: The recipe's section.
        sampler: As training left it.
        net: The trained network.
        folder: Of the run, or None to keep nothing.
    """
    found: list[NamedWidths] = []
    if isinstance(method, PareCoMethod) and isinstance(sampler, PareCo):
        found = spread(sampler.front, sampler.cost, most=method.front)
    elif isinstance(method, OwsMethod) and isinstance(sampler, Ows):
        cost = additive(read_cost(method.cost, net, latency=method.latency), sampler.alternatives)
        found = for_platforms(sampler.alternatives, sampler.losses.unary(), cost, method.platforms)
        if folder is not None:
            atomic_write_json(folder / STATISTICS, sampler.state_dict())
    elif isinstance(method, PlatformsMethod):
        return [NamedWidths(label=name, widths=net.space.widths(w)) for name, w in method.widths.items()]
    if found and folder is not None:
        atomic_write_json(folder / FOUND, {named.label: named.widths.to_json() for named in found})
    return found


def spread(front: Sequence[Widths], cost: Cost, *, most: int) -> list[NamedWidths]:
    """At most ``most`` widths of a front, its ends among them, spread over its costs; cheapest first."""
    costs = np.asarray(cost(front), dtype=np.float64) if front else np.zeros(0)
    order = np.argsort(costs, kind="stable")
    if len(order) > most:
        targets = np.linspace(costs.min(), costs.max(), most)
        order = np.array(sorted({int(np.argmin(np.abs(costs - target))) for target in targets}, key=lambda i: costs[i]))
    return [NamedWidths(label=f"front-{place}", widths=front[index]) for place, index in enumerate(order)]


def for_platforms(
    alternatives: Alternatives, loss: Additive, cost: Additive, platforms: Sequence[Platform]
) -> list[NamedWidths]:
    """The best widths for every platform's budget.

    Losses that would rise with a width are evened out; what the budget leaves is spent on widths that lose nothing.

    Raises:
        SearchError: A budget that no widths keep to.
    """
    elimination = Elimination(cost.sizes, cost.pairs)
    evened = _tilted(falling(loss))
    return [
        NamedWidths(
            label=platform.name,
            widths=alternatives.widths(fill_budget(elimination, evened, cost, platform.budget).choices),
        )
        for platform in platforms
    ]


def _tilted(loss: Additive) -> Additive:
    """The same function with a slope so small that it decides between equals only: the wider ones are preferred."""
    slope = 1e-6 * (max((float(np.ptp(table)) for table in loss.unary), default=0.0) or 1.0)
    unary = tuple(table - slope * np.linspace(0, 1, len(table)) for table in loss.unary)
    return Additive(unary=unary, pairs=loss.pairs)


def known_widths(folder: Path, recipe: Recipe, net: SlimmableModel) -> list[NamedWidths]:
    """What a finished run evaluates if nothing else is asked for: the recipe's ratios, and what training found."""
    widths = name_ratios(recipe.ratios, net.space)
    if isinstance(recipe.method, PlatformsMethod):
        named = recipe.method.widths
    else:
        path = folder / FOUND
        named = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [*widths, *(NamedWidths(label=label, widths=net.space.widths(each)) for label, each in named.items())]
