"""OWS and AOWS: samplers that learn, while shared weights train, what each channel count is worth."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slimmable.core.sampling import Probe, check_same_sampler, widest_first
from slimmable.core.space import Widths
from slimmable.errors import SearchError
from slimmable.record import Json
from slimmable.search.additive import Additive
from slimmable.search.budget import within_budget
from slimmable.search.elimination import Elimination
from slimmable.search.platforms import Platform
from slimmable.search.statistics import ChoiceLosses
from slimmable.search.tables import Alternatives


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """A temperature that falls in pieces, each linear in its logarithm.

    The defaults are those of AOWS: 1 up to the end of the warm-up, then to .01, .001 and .0005 at equal distances.

    Args:
        values: Temperatures at the corners, the first at the end of the warm-up, the last at the end of training.

    >>> Temperatures(values=(1.0, 0.01)).at(0.5)
    0.1
    """

    values: tuple[float, ...] = (1.0, 0.01, 0.001, 0.0005)

    def __post_init__(self) -> None:
        if not self.values or min(self.values) <= 0:
            raise SearchError(f"expected temperatures above 0, got {self.values}")

    def at(self, progress: float) -> float:
        """The temperature at a share of the steps after the warm-up, from 0 to 1."""
        corners = np.linspace(0, 1, len(self.values))
        return float(round(math.exp(np.interp(progress, corners, np.log(self.values))), 12))


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    r"""How AOWS draws configurations once the warm-up is over.

    A platform :math:`k` is drawn with its probability :math:`\nu_k`; then a configuration with
    :math:`p(c) \propto \exp(-(\tfrac{\mu_k}{\nu_k} L(c) + \tfrac{\gamma_k}{\nu_k} R(c)) / T)`, where :math:`L` are the
    statistics so far, :math:`R` is the cost and :math:`\gamma_k` the multiplier that meets the platform's budget.

    Args:
        cost: Cost of the choices, in the unit of the budgets.
        platforms: What is trained for; one platform of importance and sampling 1 is plain AOWS.
        warm_up: Steps of uniform sampling.
        steps: Steps of the whole training: the temperature falls between the two.
        temperatures: How it falls.
        joint: Draw whole configurations. Otherwise every width is drawn by its own marginal, as in AOWS, which ignores
            that the widths of neighbours go together.

    Raises:
        SearchError: No platform is ever drawn, or a warm-up that leaves no steps.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Eq. 4 and 5, the latter in the
        domain of costs (see :mod:`slimmable.search.elimination`).
    """

    cost: Additive
    platforms: tuple[Platform, ...]
    warm_up: int
    steps: int
    temperatures: Temperatures = field(default_factory=Temperatures)
    joint: bool = True

    def __post_init__(self) -> None:
        if not any(platform.sampling > 0 for platform in self.platforms):
            raise SearchError("no platform has a sampling above 0: none would ever be drawn")
        if not 0 <= self.warm_up < self.steps:
            raise SearchError(f"expected a warm-up of 0 to {self.steps - 1} of {self.steps} steps, got {self.warm_up}")

    def temperature(self, step: int) -> float:
        """The temperature of a step after the warm-up."""
        return self.temperatures.at(min((step - self.warm_up) / max(self.steps - 1 - self.warm_up, 1), 1.0))

    def to_json(self) -> dict[str, Json]:
        """What the draws depend on, the cost left out."""
        return {
            "platforms": [[p.name, p.budget, p.importance, p.sampling] for p in self.platforms],
            "warm_up": self.warm_up,
            "steps": self.steps,
            "temperatures": list(self.temperatures.values),
            "joint": self.joint,
        }


class Ows:
    r"""Widest, narrowest and ``k`` random configurations at every step, whose losses become statistics.

    A configuration draws every width among its alternatives: uniformly (OWS), or after a warm-up where a platform is
    likely to be (AOWS). What it adds to the loss of the widest on the same batch is noted for each of its choices.
    Losses are compared across widths, so train all of them on the labels (``TrainSettings(distillation=False)``).

    Args:
        alternatives: What each width may be.
        k: Random configurations per step.
        window: Losses of each choice that the statistics are taken over, the most recent ones.
        adaptation: How AOWS draws; None is OWS.
        seed: Step :math:`t` draws from a generator seeded by ``(seed, t)``.

    Raises:
        SearchError: ``k`` below 1, or a cost of other choices.

    References:
        Berman et al. AOWS: Adaptive and Optimal Network Width Search with Latency Constraints. CVPR 2020.
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Section 3.2.
    """

    def __init__(
        self,
        alternatives: Alternatives,
        *,
        k: int = 1,
        window: int = 100,
        adaptation: Adaptation | None = None,
        seed: int = 0,
    ) -> None:
        if k < 1:
            raise SearchError(f"Ows(k={k}); expected at least 1 random configuration per step")
        self.alternatives, self.k, self.seed, self.adaptation = alternatives, k, seed, adaptation
        self.losses = ChoiceLosses(alternatives.sizes, window=window)
        self.fixed = (
            alternatives.widths([size - 1 for size in alternatives.sizes]),
            alternatives.widths([0] * len(alternatives.sizes)),
        )
        self._elimination = Elimination(alternatives.sizes, adaptation.cost.pairs if adaptation else ())
        if adaptation is not None:
            self._elimination.check(adaptation.cost)
        self._drawn: list[tuple[Widths, tuple[int, ...]]] = []
        self._widest: float | None = None

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; the batch is not looked at."""
        adaptation = self.adaptation
        if adaptation is None or step < adaptation.warm_up or not self.losses.known:
            generator = random.Random(f"ows {self.seed} {step}")
            drawn = [self.alternatives.draw(generator) for _ in range(self.k)]
        else:
            drawn = self._likely(adaptation, step)
        self._drawn = [(self.alternatives.widths(choices), choices) for choices in drawn]
        self._widest = None
        return (self.fixed[0], *widest_first([widths for widths, _ in self._drawn]), self.fixed[1])

    def tell(self, widths: Widths, loss: float) -> None:
        """Note what a configuration adds to the loss of the widest, which is told first."""
        if self._widest is None:
            self._widest = loss
        elif (known := next((each for each in self._drawn if each[0] == widths), None)) is not None:
            self._drawn.remove(known)  # the narrowest, told last, may have been drawn as well
            self.losses.add(known[1], loss - self._widest)

    def _likely(self, adaptation: Adaptation, step: int) -> list[tuple[int, ...]]:
        generator = np.random.default_rng([self.seed, step])
        shares = np.array([platform.sampling for platform in adaptation.platforms])
        platform = adaptation.platforms[int(generator.choice(len(shares), p=shares / shares.sum()))]
        energy = self.energy(adaptation, platform)
        temperature = adaptation.temperature(step)
        if adaptation.joint:
            return [self._elimination.sample(energy, temperature, generator) for _ in range(self.k)]
        marginals = self._elimination.marginals(energy, temperature)
        return [tuple(int(generator.choice(len(p), p=p / p.sum())) for p in marginals) for _ in range(self.k)]

    def energy(self, adaptation: Adaptation, platform: Platform) -> Additive:
        r""":math:`\tfrac{\mu_k}{\nu_k} L + \tfrac{\gamma_k}{\nu_k} R` of a platform with the statistics so far."""
        loss = self.losses.unary()
        # mu_k scales the whole Lagrangian: the multiplier of mu_k L is mu_k times that of L.
        gamma = within_budget(self._elimination, loss, adaptation.cost, platform.budget).multiplier
        scale = platform.importance / platform.sampling
        return loss.plus(adaptation.cost, gamma).times(scale)

    def state_dict(self) -> dict[str, Json]:
        """Settings and statistics, in JSON types."""
        return {**self._settings(), "statistics": self.losses.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            CheckpointError: The state is that of another sampler.
        """
        check_same_sampler(state, self._settings())
        self.losses.load_state_dict(state["statistics"])

    def _settings(self) -> dict[str, Json]:
        return {
            "sampler": "ows",
            "channels": [list(these) for these in self.alternatives.channels],
            "k": self.k,
            "seed": self.seed,
            "adaptation": self.adaptation.to_json() if self.adaptation else None,
        }
