"""How well the latency model tells widths that it has not seen.

torchvision's MobileNetV2 is timed whole, one image, at random widths that differ from layer to layer; a model is fitted
to most of them, and its error stated on the others, which were timed among them. Then widths are searched for seven
budgets in milliseconds (with made-up losses that fall in every width), and what was found is timed: ``excess_max`` is
the largest share by which a measured latency exceeds its budget, ``budget_error`` the mean distance from it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import conclude, parser, show, start_over_with_tuned_malloc
from torch import Tensor

from slimmable import SlimmableModel
from slimmable.cost.timing import measure_latency
from slimmable.recipes.profiling import Profile, ProfileSettings, named_network, profile, uniform_widths
from slimmable.record import Json
from slimmable.search import Additive, Alternatives, Elimination, additive, fill_budget

NETWORK = "torchvision:mobilenet_v2"


def main() -> None:
    """Run the benchmark."""
    start_over_with_tuned_malloc()
    command = parser(__doc__, rounds=21)
    command.add_argument("--size", type=int, default=224, help="side of the image in pixels (default: %(default)s)")
    command.add_argument("--count", type=int, default=200, help="random widths to fit (default: %(default)s)")
    command.add_argument("--held-out", type=int, default=50, help="random widths to tell (default: %(default)s)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net, size = named_network(NETWORK, input_size=(3, options.size, options.size), options={})
    settings = ProfileSettings(
        count=options.count, held_out=options.held_out, rounds=options.rounds, clock=options.clock
    )
    named = uniform_widths(net.space)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = profile(net, size, Path(folder, "latency.json"), settings=settings, named=named)
    seconds = time.perf_counter() - began
    told = found.model([each.widths for each in named])
    budgets = kept_budgets(net, found, torch.randn(1, *size), options)
    excess = [entry["measured"] / entry["budget"] - 1 for entry in budgets]
    show(
        f"{NETWORK}, one image of {options.size} pixels",
        ("uniform width", "ms", "quartiles", "model"),
        [
            (label, f"{timing.milliseconds:.2f}", f"{timing.low:.2f} .. {timing.high:.2f}", f"{own:.2f}")
            for (label, timing), own in zip(found.named.items(), told, strict=True)
        ],
    )
    show(
        "widths found for budgets",
        ("budget, ms", "model", "measured"),
        [tuple(f"{entry[key]:.2f}" for key in ("budget", "model", "measured")) for entry in budgets],
    )
    figures = {
        "mape": found.model.error,
        "median_error": found.median_error,
        "spread": found.model.spread,
        "excess_max": max(excess),
        "budget_error": sum(map(abs, excess)) / len(excess),
        "seconds": seconds,
    }
    facts: dict[str, Json] = {**measured(found), "budgets": [dict(entry) for entry in budgets]}
    conclude("latency", options, figures=figures, measured=facts)


def kept_budgets(
    net: SlimmableModel, found: Profile, inputs: Tensor, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Budgets between the latencies of the smallest and the largest widths, and those of the widths found for them."""
    alternatives = Alternatives.of(net.space, most=14)
    model = found.model.cautious()  # as slimmable search keeps budgets
    cost = additive(model, alternatives)
    elimination = Elimination(cost.sizes, cost.pairs)
    loss = Additive(unary=tuple(np.sqrt(these[-1] / np.array(these)) for these in alternatives.channels), pairs={})
    least, most = model([net.space.smallest, net.space.largest])
    budgets = [float(least + share * (most - least)) for share in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)]
    chosen = [alternatives.widths(fill_budget(elimination, loss, cost, budget).choices) for budget in budgets]
    anchor = next(iter(found.named.values()))
    timings = measure_latency(net, chosen, inputs, rounds=options.rounds, clock=options.clock, anchor=anchor)
    measured = {timing.widths: timing.milliseconds for timing in timings}
    return [
        {"budget": budget, "model": float(model([widths])[0]), "measured": measured[widths]}
        for budget, widths in zip(budgets, chosen, strict=True)
    ]


def measured(found: Profile) -> dict[str, Json]:
    """The timings with names, every error in percent, the device, and how many terms the model has."""
    return {
        "network": NETWORK,
        "named": {label: timing.to_json() for label, timing in found.named.items()},
        "errors_percent": [round(error, 4) for error in found.errors],
        "device": dict(found.model.device),
        "terms": len(found.model.terms),
    }


if __name__ == "__main__":
    main()
