"""A Gaussian process of the loss over widths, and the widths that its acquisition function likes best."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.costs import Cost
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.record import Json
from slimmable.search.additive import Floats
from slimmable.search.pareto import non_dominated

_REFINEMENTS = 20


class Surrogate:
    r"""Posterior of the loss given a history: Matérn-5/2 with a length scale for every width.

    Priors are those of the BoTorch of PareCO's time, stated because later versions have others: Gamma(3, 6) for length
    scales, Gamma(2, 0.15) for the output scale, Gamma(1.1, 0.05) for the noise. Inputs are width multipliers scaled to
    [0, 1], outputs are standardised. Hyperparameters are fitted anew when the history has grown by ``refit``, since a
    fit takes seconds and their values change slowly; one thread, since more make it ten times slower.

    Args:
        space: The width space.
        refit: Growth of the history, as a factor, at which hyperparameters are fitted again.

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. Appendix C.
    """

    def __init__(self, space: WidthSpace, *, refit: float = 1.05) -> None:
        if find_spec("botorch") is None:
            raise MissingDependencyError(
                "Bayesian optimisation needs botorch, which is not installed: pip install 'slimmable[search]'"
            )
        self.space, self.refit = space, refit
        self._leaders = [leader for leader, *_ in space.dimensions]
        self._fitted = 0
        self._hyperparameters: dict[str, list[float]] = {}
        self._model: Any = None

    def inputs(self, widths_list: Sequence[Widths]) -> Floats:
        """Multipliers of the independent widths scaled to [0, 1], shape ``(len(widths_list), len(space))``."""
        places = [self.space.names.index(leader.name) for leader in self._leaders]
        channels = np.array([[widths.channels[place] for place in places] for widths in widths_list], dtype=np.float64)
        low = np.array([leader.minimum for leader in self._leaders])
        high = np.array([leader.maximum for leader in self._leaders])
        return (channels.reshape(len(widths_list), -1) - low) / (high - low)

    def learn(self, widths_list: Sequence[Widths], losses: Sequence[float]) -> None:
        """Condition on losses; hyperparameters are fitted if the history has grown enough since the last fit."""
        x = torch.from_numpy(self.inputs(widths_list))
        y = torch.tensor(losses, dtype=torch.float64)[:, None]
        with _alone():
            model = _gaussian_process(x, y)
            raw = {name: value for name, value in model.named_parameters() if value.requires_grad}
            if not self._hyperparameters or len(widths_list) >= self.refit * self._fitted:
                _fit(model)
                self._fitted = len(widths_list)
                self._hyperparameters = {name: value.detach().flatten().tolist() for name, value in raw.items()}
            else:
                with torch.no_grad():
                    for name, value in raw.items():
                        kept = torch.tensor(self._hyperparameters[name], dtype=value.dtype)
                        value.copy_(kept.reshape(value.shape))
            self._model = model.eval()

    def predict(self, widths_list: Sequence[Widths]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the loss, each of shape ``(len(widths_list),)``."""
        with _alone(), torch.no_grad():
            posterior = self._model.posterior(torch.from_numpy(self.inputs(widths_list)))
            return posterior.mean[:, 0].numpy(), posterior.variance[:, 0].sqrt().numpy()

    def state_dict(self) -> dict[str, Json]:
        """Hyperparameters, in JSON types."""
        return {
            "fitted": self._fitted,
            "hyperparameters": {name: list(values) for name, values in self._hyperparameters.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._fitted, self._hyperparameters = int(state["fitted"]), dict(state["hyperparameters"])


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    r"""How the next widths are chosen from the surrogate: PareCO's Algorithm 2 and its constants.

    The acquisition :math:`g_1 = \mu \mp \sqrt{\beta} \sigma` of the loss and the cost :math:`g_2`, which is known in
    closed form and needs no surrogate, are both scaled so that 0 lies below everything met and 1 at the worst of the
    history, and

    .. math:: T_\lambda = \max_i \lambda_i g_i + \rho \sum_i \lambda_i g_i

    is minimised over a pool of candidates: random widths (a Sobol sequence), the history's front and its neighbours.
    With the posterior computed once on the pool, every :math:`\lambda` of the bisection is arithmetic on two vectors.
    From the minimiser at the last one, neighbours are followed downhill.

    Args:
        sampling: ``"pareto"`` draws a target cost where the front has gaps, and bisects :math:`\lambda` until the
            minimiser costs that; ``"uniform"`` draws :math:`\lambda`.
        bound: ``"lower"`` confidence bound, right for minimising, or the ``"upper"`` one of the authors' code.
        beta: Weight of the variance.
        augmentation: :math:`\rho`.
        bins: Of the cost axis, from the cheapest to the dearest widths, among which the target is drawn.
        worst_loss: Loss that the cheapest widths are taken to have where areas are computed: the front's left end.
        bisections: Most values of :math:`\lambda` that are tried.
        tolerance: Difference between cost and target, in parts of the dearest widths' cost, that ends the bisection.
        pool: Random candidates.

    References:
        Chin, Morcos, Marculescu. PareCO: Pareto-aware Channel Optimization for Slimmable Neural Networks. Eq. 1 and 3,
        Algorithm 2, in which ``lambda_1`` stands for ``lambda_FLOPs``.
    """

    sampling: Literal["pareto", "uniform"] = "pareto"
    bound: Literal["lower", "upper"] = "lower"
    beta: float = 0.1
    augmentation: float = 1e-6
    bins: int = 50
    worst_loss: float = 8.0
    bisections: int = 10
    tolerance: float = 0.02
    pool: int = 2048

    def __post_init__(self) -> None:
        if self.sampling not in ("pareto", "uniform") or self.bound not in ("lower", "upper"):
            raise SearchError(
                f"sampling={self.sampling!r}, bound={self.bound!r}; expected pareto or uniform, and lower or upper"
            )
        for name in ("bins", "bisections", "pool"):
            if getattr(self, name) < 1:
                raise SearchError(f"Acquisition.{name} is {getattr(self, name)}; expected at least 1")
        for name in ("beta", "augmentation", "tolerance"):
            if getattr(self, name) < 0:
                raise SearchError(f"Acquisition.{name} is {getattr(self, name)}; expected at least 0")

    def propose(
        self,
        surrogate: Surrogate,
        cost: Cost,
        history: Sequence[Widths],
        losses: Sequence[float],
        *,
        count: int,
        seed: str,
    ) -> list[Widths]:
        """``count`` different widths to try next.

        Args:
            surrogate: Learns the history.
            cost: What is traded against the loss.
            history: Widths tried so far, without repetition.
            losses: Their losses.
            count: How many widths are wanted.
            seed: Determines the candidates and the draws.
        """
        generator = random.Random(seed)
        surrogate.learn(history, losses)
        costs = np.asarray(cost(history), dtype=np.float64)
        pool = _Pool(self, surrogate, cost, losses)
        pool.add(self._candidates(surrogate.space, history, losses, costs, generator))
        found: list[Widths] = []
        while len(found) < min(count, len(pool.widths)):
            if self.sampling == "uniform":
                weight = generator.random()
            else:
                target = self.target(costs, losses, pool.least, pool.most, generator)
                weight = self._bisect(pool, target, found)
            found.append(pool.refined(weight, found))
        return found

    def target(
        self, costs: Floats, losses: Sequence[float], least: float, most: float, generator: random.Random
    ) -> float:
        """A cost at which the front wants exploring: the centre of a bin, drawn by the area that Eq. 3 gives it."""
        weights = self.areas(costs, losses, least, most)
        edges = np.linspace(least, most, self.bins + 1)
        [place] = generator.choices(range(self.bins), weights.tolist())
        return float((edges[place] + edges[place + 1]) / 2)

    def areas(self, costs: Floats, losses: Sequence[float], least: float, most: float) -> Floats:
        """For each bin of costs its share of the rectangles between neighbours on the front, shape ``(bins,)``."""
        values = np.stack([costs, np.asarray(losses)], axis=1)
        front = values[list(non_dominated(values))]
        front = front[np.argsort(front[:, 0])]
        ends = np.array([[least, self.worst_loss], *front.tolist(), [most, front[-1, 1]]])
        widths = np.maximum(np.diff(ends[:, 0]), 0)
        areas = widths * np.maximum(-np.diff(ends[:, 1]), 0)
        edges = np.linspace(least, most, self.bins + 1)
        overlap = np.minimum(edges[1:, None], ends[1:, 0]) - np.maximum(edges[:-1, None], ends[:-1, 0])
        density = np.divide(areas, widths, out=np.zeros_like(areas), where=widths > 0)
        weights = (np.maximum(overlap, 0) * density).sum(1)
        return weights if weights.sum() > 0 else np.ones(self.bins)

    def _bisect(self, pool: _Pool, target: float, taken: Sequence[Widths]) -> float:
        """The weight of the cost whose minimiser comes nearest to the target within the bisection."""
        low, high, weight = 0.0, 1.0, 0.5
        best, nearest = weight, np.inf
        for _ in range(self.bisections):
            apart = pool.costs[pool.minimiser(weight, taken)] - target
            if abs(apart) < nearest:
                best, nearest = weight, abs(apart)
            if abs(apart) <= self.tolerance * pool.most:
                break
            low, high = (weight, high) if apart > 0 else (low, weight)
            weight = (low + high) / 2
        return best

    def _candidates(
        self,
        space: WidthSpace,
        history: Sequence[Widths],
        losses: Sequence[float],
        costs: Floats,
        generator: random.Random,
    ) -> list[Widths]:
        sobol = torch.quasirandom.SobolEngine(len(space), scramble=True, seed=generator.randrange(2**31))
        span = space.max_ratio - space.min_ratio
        drawn = [
            space.at_ratios((space.min_ratio + span * row).tolist()) for row in sobol.draw(self.pool).double().numpy()
        ]
        front = [history[place] for place in non_dominated(np.stack([costs, np.asarray(losses)], axis=1))]
        near = [_neighbour(space, generator.choice(front), generator) for _ in range(self.pool // 4)]
        uniform = [space.random_uniform(generator) for _ in range(self.pool // 16)]
        return list(dict.fromkeys([*front, *near, *uniform, *drawn]))


class _Pool:
    """Candidates with their costs and the acquisition of their losses."""

    def __init__(self, acquisition: Acquisition, surrogate: Surrogate, cost: Cost, losses: Sequence[float]) -> None:
        self.acquisition, self.surrogate, self.cost, self.losses = acquisition, surrogate, cost, losses
        space = surrogate.space
        self.least, self.most = (float(value) for value in cost([space.smallest, space.largest]))
        self.widths: list[Widths] = []
        self.costs: Floats = np.zeros(0)
        self._bounds: Floats = np.zeros(0)

    def add(self, widths_list: Sequence[Widths]) -> bool:
        """Take in those that are new; whether there were any."""
        known = set(self.widths)
        new = [widths for widths in dict.fromkeys(widths_list) if widths not in known]
        if not new:
            return False
        mean, deviation = self.surrogate.predict(new)
        margin = np.sqrt(self.acquisition.beta) * deviation
        self._bounds = np.append(self._bounds, mean - margin if self.acquisition.bound == "lower" else mean + margin)
        self.costs = np.append(self.costs, np.asarray(self.cost(new), dtype=np.float64))
        self.widths += new
        return True

    def minimiser(self, weight: float, taken: Sequence[Widths]) -> int:
        """Place of the least scalarised value, the cost being weighted by ``weight``; those taken do not count."""
        low = min(float(self._bounds.min()), *self.losses)
        gain = (self._bounds - low) / max(max(self.losses) - low, 1e-12) + 1e-9
        price = (self.costs - self.least) / (self.most - self.least)
        terms = np.stack([(1 - weight) * gain, weight * price])
        value = terms.max(0) + self.acquisition.augmentation * terms.sum(0)
        value[[self.widths.index(widths) for widths in taken]] = np.inf
        return int(np.argmin(value))

    def refined(self, weight: float, taken: Sequence[Widths]) -> Widths:
        """The minimiser after its neighbours, and theirs as long as they are better, have been looked at."""
        best = self.widths[self.minimiser(weight, taken)]
        for _ in range(_REFINEMENTS):
            if not self.add(_around(self.surrogate.space, best)):
                break
            better = self.widths[self.minimiser(weight, taken)]
            if better == best:
                break
            best = better
        return best


def _around(space: WidthSpace, widths: Widths) -> list[Widths]:
    """All widths that differ in one independent width, by a few choices or many."""
    leaders = [leader for leader, *_ in space.dimensions]
    kept = [widths[leader.name] for leader in leaders]
    found: list[Widths] = []
    for place, leader in enumerate(leaders):
        at = leader.choices.index(kept[place])
        steps = [at + by for by in (-8, -4, -2, -1, 1, 2, 4, 8) if 0 <= at + by < len(leader.choices)]
        found += [space.led([*kept[:place], leader.choices[to], *kept[place + 1 :]]) for to in steps]
    return found


def _neighbour(space: WidthSpace, widths: Widths, generator: random.Random) -> Widths:
    """The same widths with one or two of the independent ones at another choice close by."""
    leaders = [leader for leader, *_ in space.dimensions]
    kept = [widths[leader.name] for leader in leaders]
    for place in generator.sample(range(len(leaders)), min(len(leaders), generator.choice((1, 2)))):
        choices = leaders[place].choices
        moved = choices.index(kept[place]) + generator.choice((-2, -1, 1, 2))
        kept[place] = choices[min(max(moved, 0), len(choices) - 1)]
    return space.led(kept)


def _gaussian_process(x: Tensor, y: Tensor) -> Any:
    """BoTorch's Gaussian process with the kernel and priors of :class:`Surrogate`, for outputs to be standardised."""
    from botorch.models import SingleTaskGP
    from botorch.models.transforms.outcome import Standardize
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.priors import GammaPrior

    kernel = MaternKernel(nu=2.5, ard_num_dims=x.shape[1], lengthscale_prior=GammaPrior(3.0, 6.0))
    return SingleTaskGP(
        x,
        y,
        likelihood=GaussianLikelihood(noise_prior=GammaPrior(1.1, 0.05), noise_constraint=GreaterThan(1e-4)),
        covar_module=ScaleKernel(kernel, outputscale_prior=GammaPrior(2.0, 0.15)),
        outcome_transform=Standardize(m=1),
    )


def _fit(model: Any) -> None:
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, and silence about the scale of inputs and outputs, which is as it should be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
