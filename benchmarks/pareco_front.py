"""Whether what makes PareCO's search fast worsens its front.

The search as its authors run it fits the Gaussian process in every round and optimises the acquisition function by
gradients for every weight of the bisection (BoTorch's ``optimize_acqf``, 5 restarts, 1000 raw samples). This library
computes the posterior once on a pool of candidates, follows the best one's neighbours, and fits again when the history
has grown by a twentieth. Both search for a front of a known loss of six widths, with noise as between batches, from the
same beginnings; the area under the front's curve of true losses over costs (smaller is better) is compared with that of
random widths. A last search draws the weight of the cost uniformly instead of a target cost where the front has gaps:
``unevenness`` is the largest distance between the distribution of the costs looked at and a uniform one (0 is even, 1
is all at one end).
"""

from __future__ import annotations

import random
import time
import warnings
from typing import Any

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf
from common import conclude, parser, show
from torch import Tensor

from slimmable import WidthGroup, Widths, WidthSpace
from slimmable.cost.costs import NamedCost
from slimmable.search import Acquisition, Surrogate, area_under_curve, unevenness

GROUPS = [WidthGroup(name=f"g{i}", base=64, minimum=20, maximum=64, divisor=2) for i in range(6)]
SPACE = WidthSpace(tuple(GROUPS), 20 / 64, 1.0)
WORTH = np.array([3.0, 0.3, 1.5, 0.6, 0.2, 1.0])
PRICE = np.array([4.0, 4.0, 2.0, 2.0, 1.0, 1.0])


def true_loss(widths: Widths) -> float:
    """Falls in every width, at very different rates."""
    return float((WORTH * (20 / np.array(widths.channels)) ** 0.7).sum())


def cost_of(channels: Any) -> Any:
    """Products of neighbours, as of convolutions; of arrays or tensors ``(..., 6)``."""
    return sum(PRICE[i] * channels[..., i] * channels[..., (i + 1) % 6] for i in range(6))


COST = NamedCost(name="cost", unit="", of=lambda many: cost_of(np.array([each.channels for each in many], dtype=float)))


class Scalarised(AcquisitionFunction):
    """The augmented Tchebyshev scalarisation of the lower confidence bound and the cost, as a function of inputs."""

    def __init__(self, surrogate: Surrogate, weight: float, low: float, high: float, options: Acquisition) -> None:
        super().__init__(surrogate._model)
        self.weight, self.low, self.high, self.options = weight, low, high, options

    def forward(self, X: Tensor) -> Tensor:
        """Minus the scalarised value of ``(b, 1, 6)`` inputs."""
        posterior: Any = self.model.posterior(X)
        bound = posterior.mean[:, 0, 0] - self.options.beta**0.5 * posterior.variance[:, 0, 0].sqrt()
        gain = (bound - self.low) / (self.high - self.low)
        least, most = COST([SPACE.smallest, SPACE.largest])
        price = (cost_of(20 + 44 * X[:, 0]) - least) / (most - least)
        terms = torch.stack([(1 - self.weight) * gain, self.weight * price])
        return -(terms.amax(0) + self.options.augmentation * terms.sum(0))


def by_gradients(
    surrogate: Surrogate, known: list[Widths], losses: list[float], options: Acquisition, seed: str
) -> Widths:
    """One proposal as the authors make it."""
    generator = random.Random(seed)
    surrogate.learn(known, losses)
    least, most = (float(value) for value in COST([SPACE.smallest, SPACE.largest]))
    target = options.target(COST(known), losses, least, most, generator)
    low, high, weight = 0.0, 1.0, 0.5
    best, nearest = SPACE.largest, np.inf
    bounds = torch.tensor([[0.0] * 6, [1.0] * 6], dtype=torch.float64)
    for _ in range(options.bisections):
        function = Scalarised(surrogate, weight, min(losses) - 0.1, max(losses), options)
        found, _ = optimize_acqf(function, bounds=bounds, q=1, num_restarts=5, raw_samples=1000)
        ratios = (20 + 44 * found[0].numpy()) / 64
        widths = SPACE.at_ratios(ratios.clip(SPACE.min_ratio, 1.0).tolist())
        apart = float(COST([widths])[0]) - target
        if abs(apart) < nearest:
            best, nearest = widths, abs(apart)
        if abs(apart) / most <= options.tolerance:
            break
        low, high = (weight, high) if apart > 0 else (low, weight)
        weight = (low + high) / 2
    return best


def run(method: str, seed: int, trials: int) -> tuple[float, float, float]:
    """Area under the front that a method finds, the unevenness of what it looks at, and its seconds."""
    generator, noise = random.Random(seed), random.Random(f"noise {seed}")
    known = list(dict.fromkeys([SPACE.largest, SPACE.smallest, *(SPACE.random_uniform(generator) for _ in range(18))]))
    begun = len(known)
    options = Acquisition(worst_loss=8.0, sampling="uniform" if method == "uniform" else "pareto")
    surrogate = Surrogate(SPACE, refit=1.0 if method == "authors" else 1.05)
    began = time.perf_counter()
    while len(known) < trials:
        # Losses of the whole history are noisy anew in every round, as on another batch.
        losses = [true_loss(widths) + noise.gauss(0, 0.03) for widths in known]
        at = f"{seed} {len(known)}"
        if method == "random":
            found = [SPACE.random(generator) for _ in range(2)]
        elif method == "authors":
            found = [by_gradients(surrogate, known, losses, options, f"{at} {place}") for place in range(2)]
        else:
            found = options.propose(surrogate, COST, known, losses, count=2, seed=at)
        known += found
    seconds = time.perf_counter() - began
    costs, losses = COST(known), [true_loss(widths) for widths in known]
    least, most = (float(value) for value in COST([SPACE.smallest, SPACE.largest]))
    area = area_under_curve(costs.tolist(), losses, between=(least, most))
    return area, unevenness(costs[begun:].tolist(), between=(least, most)), seconds


def main() -> None:
    """Measure; see ``--help``."""
    command = parser(__doc__, rounds=3)
    command.add_argument("--trials", type=int, default=40, help="widths of a history, 20 of them uniform")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for method in ("random", "slimmable", "uniform", "authors"):
        found[method] = [run(method, seed, options.trials) for seed in range(options.rounds)]
    areas = {method: [area for area, _, _ in each] for method, each in found.items()}
    uneven = {method: float(np.mean([value for _, value, _ in each])) for method, each in found.items()}
    seconds = {method: float(np.mean([time for _, _, time in each])) for method, each in found.items()}
    show(
        "area under the front (smaller is better)",
        ("search", "mean", "standard deviation", "unevenness", "seconds"),
        [
            (method, f"{np.mean(a):.4f}", f"{np.std(a, ddof=1):.4f}", f"{uneven[method]:.3f}", f"{seconds[method]:.1f}")
            for method, a in areas.items()
        ],
    )
    figures = {f"area_{method}": float(np.mean(each)) for method, each in areas.items()}
    figures |= {f"unevenness_{method}": value for method, value in uneven.items()}
    figures |= {f"seconds_{method}": value for method, value in seconds.items()}
    conclude(
        "pareco_front", options, figures=figures, measured={"areas": {key: list(each) for key, each in areas.items()}}
    )


if __name__ == "__main__":
    main()
