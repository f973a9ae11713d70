"""PareCO: widths and weights optimised together, by multi-objective Bayesian optimisation during training."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimmable.core.sampling import Probe, check_same_sampler, widest_first
from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.costs import Cost
from slimmable.errors import SearchError
from slimmable.record import Json
from slimmable.search.pareto import Front, non_dominated
from slimmable.search.surrogate import Acquisition, Surrogate
from slimmable.search.trials import Budget, Objective, Trials


class PareCo:
    r"""Widest, narrowest, and ``m`` widths that Bayesian optimisation finds worth training, for ``n`` steps each.

    Every ``n`` steps all widths :math:`\mathcal{H}` found so far are run on the batch of the step; a Gaussian process
    of their losses and the cost in closed form say which ``m`` widths come next (Algorithm 2, :class:`Acquisition`).
    They join the history and are trained, with the widest and the narrowest, for ``n`` steps. The first ``warm_up``
    widths are uniform ones; then the widest joins the history.

    Args:
        space: The network's width space.
        cost: What is traded against the loss, such as MACs.
        m: Widths found at a time.
        n: Steps of training between searches.
        warm_up: Uniform widths that begin the history.
        acquisition: How the next widths are chosen.
        refit: Growth of the history at which the Gaussian process is fitted anew, see :class:`Surrogate`.
        seed: Determines every draw.

    Raises:
        SearchError: ``m``, ``n`` or ``warm_up`` is too small, or the space has nothing to choose.

    Cost:
        Every ``n`` steps a forward pass for each different width of the history, and about half a second at 1000 of
        them (fits of the Gaussian process, which are rare, included).

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. 2020,
        Algorithm 1; ``m`` is 2, ``n`` such that the history reaches 1000 (313 steps on CIFAR).
    """

    def __init__(
        self,
        space: WidthSpace,
        cost: Cost,
        *,
        m: int = 2,
        n: int = 313,
        warm_up: int = 20,
        acquisition: Acquisition | None = None,
        refit: float = 1.05,
        seed: int = 0,
    ) -> None:
        if m < 1 or n < 1 or warm_up < 2:
            raise SearchError(f"PareCo(m={m}, n={n}, warm_up={warm_up}); expected at least 1, 1 and 2")
        if len(space) == 0:
            raise SearchError("the space has no width to choose; see the network's report for what holds them")
        self.space, self.cost, self.m, self.n, self.warm_up, self.seed = space, cost, m, n, warm_up, seed
        self.acquisition = acquisition or Acquisition()
        self.surrogate = Surrogate(space, refit=refit)
        self.fixed = (space.largest, space.smallest)
        self.history: tuple[Widths, ...] = ()
        self.losses: tuple[float, ...] = ()
        self._current: tuple[Widths, ...] = ()

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; every ``n`` steps the history is run on the batch to find new ones.

        Raises:
            SearchError: New widths are due and there is no ``probe``.
        """
        if step % self.n == 0:
            if probe is None:
                raise SearchError("PareCo looks at the batch of a step; expected a probe, as slimmable.train.fit gives")
            self._search(step, probe)
        return (self.fixed[0], *self._current, self.fixed[1])

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn: losses of different steps do not compare."""

    @property
    def front(self) -> tuple[Widths, ...]:
        """The approximate Pareto front: widths of the history that no others dominate on the batch last looked at."""
        if not self.losses:
            return ()
        known = self.history[: len(self.losses)]
        values = np.stack([np.asarray(self.cost(known), dtype=np.float64), np.asarray(self.losses)], axis=1)
        return tuple(known[place] for place in non_dominated(values))

    def look(self, probe: Probe) -> None:
        """Run the whole history on one batch, so that :attr:`front` is that of the present weights."""
        self.losses = tuple(probe(self.history))

    def _search(self, step: int, probe: Probe) -> None:
        self.look(probe)
        seed = f"pareco {self.seed} {step}"
        if len(self.history) < self.warm_up:
            generator = random.Random(seed)
            found = [self.space.random_uniform(generator) for _ in range(self.m)]
        else:
            if self.space.largest not in self.history:
                self.history = (*self.history, self.space.largest)
                self.look(probe)
            distinct = dict(zip(self.history, self.losses, strict=True))
            found = self.acquisition.propose(
                self.surrogate, self.cost, list(distinct), list(distinct.values()), count=self.m, seed=seed
            )
        self._current = widest_first(found)
        self.history = (*self.history, *found)

    def state_dict(self) -> dict[str, Json]:
        """Settings and history, in JSON types."""
        return {
            **self._settings(),
            "history": [list(widths.channels) for widths in self.history],
            "losses": list(self.losses),
            "current": [list(widths.channels) for widths in self._current],
            "surrogate": self.surrogate.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            CheckpointError: The state is that of another sampler.
        """
        check_same_sampler(state, self._settings())
        self.history = tuple(map(self.space.widths, state["history"]))
        self.losses = tuple(map(float, state["losses"]))
        self._current = tuple(map(self.space.widths, state["current"]))
        self.surrogate.load_state_dict(state["surrogate"])

    def _settings(self) -> dict[str, Json]:
        return {
            "sampler": "pareco",
            "cost": self.cost.name,
            "m": self.m,
            "n": self.n,
            "warm_up": self.warm_up,
            "acquisition": dict(vars(self.acquisition)),
            "seed": self.seed,
        }


def bayesian(
    space: WidthSpace,
    objective: Objective,
    budgets: Sequence[Budget],
    *,
    trials: int = 200,
    seed: int = 0,
    batch: int = 4,
    warm_up: int = 20,
    acquisition: Acquisition | None = None,
    progress: bool = False,
) -> Front:
    """The front of widths that PareCO's search finds on a network that is trained already.

    The first budget's cost is traded against the loss, over its whole range; all budgets are for whoever reads the
    front.

    Args:
        space: Where to search.
        objective: What is minimised.
        budgets: At least one.
        trials: Most evaluations.
        seed: Determines every draw.
        batch: Widths found at a time.
        warm_up: Uniform widths to begin with, the ends among them.
        acquisition: How the next widths are chosen.
        progress: Show a bar.

    Raises:
        SearchError: Fewer trials than the warm-up has, or a budget that the smallest widths exceed.
    """
    if trials < warm_up or warm_up < 2:
        raise SearchError(f"{trials} trials with a warm-up of {warm_up}; expected 2 <= warm-up <= trials")
    run = Trials(space, objective, budgets, trials=trials, progress=progress)
    generator = random.Random(f"bayesian {seed}")
    surrogate, acquisition, cost = Surrogate(space), acquisition or Acquisition(), budgets[0].cost
    uniform = [space.random_uniform(generator) for _ in range(warm_up - 2)]
    history = list(dict.fromkeys([space.largest, space.smallest, *uniform]))
    with run.watched("Bayesian search"):
        losses = run.losses_of(history)
        while run.left:
            count = min(batch, run.left)
            known = set(history)
            # More than wanted, for some may be known already.
            at = f"bayesian {seed} {len(history)}"
            found = acquisition.propose(surrogate, cost, history, losses, count=2 * count, seed=at)
            found += [space.random(generator) for _ in range(100)]
            new = list(dict.fromkeys(widths for widths in found if widths not in known))[:count]
            if not new:
                break
            history += new
            losses += run.losses_of(new)
    return run.front()
