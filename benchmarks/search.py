"""Time and correctness of exact search over widths.

* CIFAR MobileNet v1 of the multi-platform paper: 14 layers, up to 14 channel counts each, the seven budgets of its
  Table 1, solved on the convex hull (``platforms7_s``) and with the budget filled (``filled7_s``); how much of each
  budget the filled solutions leave unused (``unused_max``).
* The same chain with 200 choices for every layer (``chain200_s``, ``filled200_s``: all seven budgets).
* The width graphs of MobileNetV2 and ResNet-50, which residual sums make more than chains (``graph_s``: the slower).
* Hundreds of small random problems against enumeration (``brute_force_mismatches``).

Losses are made up (falling in every width, with noise): the time does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from common import conclude, parser, show

import slimmable
from slimmable.cost.costs import closed_form
from slimmable.models import build_model
from slimmable.record import Json
from slimmable.search import Additive, Alternatives, Elimination, additive, fill_budget, within_budget

BUDGETS = tuple(millions * 1e6 for millions in (3.3541, 7.3413, 12.2132, 19.0185, 26.5774, 36.2007, 46.4466))


def invented_loss(alternatives: Alternatives, generator: np.random.Generator) -> Additive:
    """A loss that falls in every width, faster where the width is small."""
    unary = []
    for channels in alternatives.channels:
        share = np.array(channels) / channels[-1]
        unary.append(generator.uniform(0.5, 2) * share**-0.5 + generator.normal(scale=0.01, size=len(channels)))
    return Additive(unary=tuple(unary), pairs={})


def costs_of(network: str, **how: Any) -> tuple[Alternatives, Additive]:
    """MACs of a network as tables."""
    most = how.pop("most", 14)
    built = build_model(network, num_classes=100)
    net = slimmable.convert(built.model, torch.randn(2, *built.input_size), **how)
    alternatives = Alternatives.of(net.space, most=most)
    return alternatives, additive(closed_form(net, "macs"), alternatives)


def chain200(generator: np.random.Generator) -> tuple[Additive, Additive]:
    """A chain of 14 layers of 200 widths each: losses, and costs like those of pointwise convolutions."""
    channels = np.arange(1, 201) / 200
    unary = tuple(generator.uniform(0.5, 2) * channels**-0.5 for _ in range(14))
    pairs = {(i, i + 1): 5e6 * np.outer(channels, channels) for i in range(13)}
    return Additive(unary=unary, pairs={}), Additive(unary=(np.zeros(200),) * 14, pairs=pairs)


def timed(run: Callable[[], object], rounds: int) -> float:
    """Median seconds of a run."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def mismatches(problems: int) -> int:
    """How many of as many random problems are not solved as by enumeration."""
    wrong = 0
    for seed in range(problems):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(1, 5, size=int(generator.integers(2, 7))).tolist()
        pairs = [pair for pair in combinations(range(len(sizes)), 2) if generator.random() < 0.5]
        loss, cost = (
            Additive(
                unary=tuple(generator.random(size) for size in sizes),
                pairs={(i, j): generator.random((sizes[i], sizes[j])) for i, j in pairs},
            )
            for _ in range(2)
        )
        elimination = Elimination(sizes, pairs)
        every = list(product(*map(range, sizes)))
        losses, costs = (np.array([function(choices) for choices in every]) for function in (loss, cost))
        value, _ = elimination.minimum(loss)
        budget = float(np.quantile(costs, 0.4))
        found = within_budget(elimination, loss, cost, budget)
        best = losses[costs <= budget].min()
        right = np.isclose(value, losses.min()) and found.cost <= budget and found.bound - 1e-9 <= best <= found.loss
        weights = np.exp(-losses / 0.3)
        first = np.bincount([choices[0] for choices in every], weights / weights.sum())
        right &= np.allclose(elimination.marginals(loss, 0.3)[0], first, atol=1e-10)
        wrong += not right
    return wrong


def main() -> None:
    """Measure; see ``--help``."""
    options = parser(__doc__, rounds=15).parse_args()
    generator = np.random.default_rng(0)
    alternatives, cost = costs_of("slimmable:mobilenet_v1_cifar", min_ratio=0.2, max_ratio=1.5)
    loss = invented_loss(alternatives, generator)
    elimination = Elimination(cost.sizes, cost.pairs)
    solve = lambda: [within_budget(elimination, loss, cost, budget) for budget in BUDGETS]  # noqa: E731
    fill = lambda: [fill_budget(elimination, loss, cost, budget, units=4000) for budget in BUDGETS]  # noqa: E731
    hull, filled = solve(), fill()
    long_loss, long_cost = chain200(generator)
    chain = Elimination(long_cost.sizes, long_cost.pairs)
    solve_long = lambda: [within_budget(chain, long_loss, long_cost, budget) for budget in BUDGETS]  # noqa: E731
    fill_long = lambda: [fill_budget(chain, long_loss, long_cost, budget) for budget in BUDGETS]  # noqa: E731
    graphs: dict[str, float] = {}
    for network in ("torchvision:mobilenet_v2", "torchvision:resnet50"):
        choices, macs = costs_of(network, min_ratio=0.35)
        invented = invented_loss(choices, generator)
        order = Elimination(macs.sizes, macs.pairs)
        half = macs([size - 1 for size in macs.sizes]) / 2
        graphs[network] = timed(lambda: within_budget(order, invented, macs, half), options.rounds)  # noqa: B023
    figures = {
        "platforms7_s": timed(solve, options.rounds),
        "chain200_s": timed(solve_long, options.rounds),
        "filled7_s": timed(fill, 3),
        "filled200_s": timed(fill_long, 1),
        "unused_max": max(1 - found.cost / budget for found, budget in zip(filled, BUDGETS, strict=True)),
        "graph_s": max(graphs.values()),
        "brute_force_mismatches": mismatches(400),
    }
    rows: list[dict[str, Json]] = [
        {"budget": budget, "hull_cost": a.cost, "hull_loss": a.loss, "filled_cost": b.cost, "filled_loss": b.loss}
        for budget, a, b in zip(BUDGETS, hull, filled, strict=True)
    ]
    show(
        "Seven budgets of CIFAR MobileNet v1",
        ["budget (M MACs)", "used on the hull", "used when filled", "loss on the hull", "loss when filled"],
        [
            [f"{x / 1e6:.2f}", f"{a.cost / x:.2%}", f"{b.cost / x:.2%}", f"{a.loss:.4f}", f"{b.loss:.4f}"]
            for x, a, b in zip(BUDGETS, hull, filled, strict=True)
        ],
    )
    conclude("search", options, figures=figures, measured={"platforms": list(rows), "graphs": dict(graphs)})


if __name__ == "__main__":
    main()
