"""Searches after training: what shared weights can already do is ranked, and nothing is trained.

All have the same call, ``search(space, objective, budgets, trials=..., seed=...)``, and return the front of everything
they evaluated; ``search(...).best(budget)`` are the widths found for a budget of the first cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from slimmable.core.space import WidthSpace
from slimmable.errors import SearchError
from slimmable.search.additive import Floats
from slimmable.search.pareto import Front
from slimmable.search.trials import Budget, Objective, Places, Trials

_DRAWS_WITHOUT_NEWS = 20


def random_search(
    space: WidthSpace,
    objective: Objective,
    budgets: Sequence[Budget],
    *,
    trials: int,
    seed: int = 0,
    batch: int = 32,
    progress: bool = False,
) -> Front:
    """The front of random widths that cost just below the budgets.

    Few random widths keep to a budget, and those that do are mostly far below it. A candidate is therefore drawn with
    one uniform choice for each independent width, and then moved as a whole towards the largest or the smallest widths
    until it costs as much as the budgets allow. Where the largest widths keep to all budgets, nothing is moved.

    Args:
        space: Where to search.
        objective: What is minimised.
        budgets: All have to be kept.
        trials: Most evaluations; fewer if the space holds no more candidates near the budgets.
        seed: Of all draws.
        batch: Candidates per call of ``objective``.
        progress: Whether to show a bar.

    Raises:
        SearchError: A budget that no widths keep; the message states the least cost.
        MissingDependencyError: pymoo is not installed.

    Example:
        >>> from slimmable.core.space import WidthGroup
        >>> groups = [WidthGroup(name=name, base=8, minimum=1, maximum=8, divisor=1) for name in "ab"]
        >>> space = WidthSpace(tuple(groups), 0.125, 1.0)
        >>> class Channels:
        ...     name, unit = "channels", "channels"
        ...     def __call__(self, widths):
        ...         return np.array([sum(w.channels) for w in widths])
        >>> objective = lambda widths: [1 / w["a"] + 2 / w["b"] for w in widths]
        >>> random_search(space, objective, [Budget(cost=Channels(), most=9)], trials=20).best(9).widths
        Widths(a=4, b=5)
    """
    run = Trials(space, objective, budgets, trials=trials, progress=progress)
    generator = np.random.default_rng(seed)
    with run.watched("random search"):
        _evaluate_random(run, run.left, generator, batch=batch)
    return run.front()


def evolution(
    space: WidthSpace,
    objective: Objective,
    budgets: Sequence[Budget],
    *,
    trials: int,
    seed: int = 0,
    population: int = 64,
    parents: int = 16,
    mutation: float = 0.1,
    progress: bool = False,
) -> Front:
    """The front of widths bred from the best of all before them, under budgets.

    A first population is drawn as by :func:`random_search`. Every further one is bred from the ``parents`` with the
    least losses so far: one half by crossover, each independent width from one of two parents; the other half by
    mutation of one. Of a child that exceeds a budget, random widths are lowered, choice by choice, until it does not.

    Args:
        space: Where to search.
        objective: What is minimised.
        budgets: All have to be kept.
        trials: Most evaluations.
        seed: Of all draws.
        population: Candidates per generation, and per call of ``objective``.
        parents: How many of the best breed.
        mutation: Probability that a width is changed, one at least: by one choice up or down, or to any.
        progress: Whether to show a bar.

    Raises:
        SearchError: A budget that no widths keep; or settings out of range.
        MissingDependencyError: pymoo is not installed.

    References:
        Guo et al. Single Path One-Shot Neural Architecture Search with Uniform Sampling. ECCV 2020, Algorithm 1.
    """
    if not (population >= 1 and parents >= 1 and 0 <= mutation <= 1):
        raise SearchError(
            f"evolution(population={population}, parents={parents}, mutation={mutation}); "
            "expected at least one of each and a probability"
        )
    run = Trials(space, objective, budgets, trials=trials, progress=progress)
    generator = np.random.default_rng(seed)
    with run.watched("evolution"):
        known = _evaluate_random(run, min(population, run.left), generator, batch=population)
        idle = 0
        while run.left and idle < _DRAWS_WITHOUT_NEWS:
            best = known[np.argsort(run.losses(known), kind="stable")[:parents]]
            half = (population + 1) // 2
            children = np.concatenate(
                [_crossed(best, half, generator), _mutated(best, population - half, run.sizes, mutation, generator)]
            )
            new = run.new(run.repaired(children, generator))
            idle = 0 if len(new) else idle + 1
            run.losses(new)
            known = np.concatenate([best, new])
    return run.front()


def greedy(
    space: WidthSpace,
    objective: Objective,
    budgets: Sequence[Budget],
    *,
    trials: int,
    rule: Literal["loss per cost", "loss"] = "loss per cost",
    progress: bool = False,
) -> Front:
    r"""The front of a descent from the largest widths that always gives up what is missed least.

    In every round each independent width is tried one step smaller, or as many as it takes to save anything. The step
    with the least rise of the loss per cost saved is taken, or simply that with the least loss, until all budgets are
    kept; the way down is a front for all budgets above. Nothing is drawn: the same call gives the same front.

    The cost saved is the sum, over the budgets still exceeded, of what a step saves as a share of what is to be saved.
    Where no width saves anything on its own, all are tried one step smaller. One step passes as few choices as
    ``trials`` allow for a descent down to the smallest widths, which is at worst

    .. math:: 1 + D \sum_d (s_d - 1) + D (D + 1) / 2

    evaluations for ``D`` independent widths of ``s_d`` steps.

    Args:
        space: Where to search.
        objective: What is minimised; it is called once a round.
        budgets: The descent ends when all are kept.
        trials: Most evaluations.
        rule: What makes one step better than another; ``"loss"`` is that of [1], where steps are of equal size.
        progress: Whether to show a bar.

    Raises:
        SearchError: A budget that no widths keep, or fewer trials than a descent in single steps may need.
        MissingDependencyError: pymoo is not installed.

    References:
        [1] Yu, Huang. AutoSlim: Towards One-Shot Architecture Search for Channel Numbers. 2019, section 3.
    """
    if rule not in ("loss per cost", "loss"):
        raise SearchError(f"greedy(rule={rule!r}); expected 'loss per cost' or 'loss'")
    run = Trials(space, objective, budgets, trials=trials, progress=progress)
    ladders = _ladders(run.sizes, trials)
    rungs = np.array([len(ladder) for ladder in ladders]) - 1

    def places(rows: Places) -> Places:
        return np.stack([ladder[rows[:, d]] for d, ladder in enumerate(ladders)], axis=1)

    with run.watched("greedy descent"):
        loss = run.losses(places(rungs[None]))[0]
        while not run.keep(places(rungs[None]))[0]:
            lowered, saved = _steps_down(run, rungs, places)
            losses = run.losses(places(lowered))
            merit = (losses - loss) / saved if rule == "loss per cost" else losses
            chosen = int(np.lexsort((losses, merit))[0])
            rungs, loss = lowered[chosen], losses[chosen]
    return run.front()


def _evaluate_random(run: Trials, wanted: int, generator: np.random.Generator, *, batch: int) -> Places:
    """``wanted`` random candidates near the budgets, evaluated, or as many as are to be found."""
    if batch < 1:
        raise SearchError(f"expected at least 1 candidate per batch, got {batch}")
    bound = not run.keep(run.largest[None])[0]
    found: list[Places] = []
    idle = 0
    while wanted and idle < _DRAWS_WITHOUT_NEWS:
        drawn = generator.integers(run.sizes, size=(batch, len(run.sizes)))
        if bound:
            drawn = run.near(drawn, np.broadcast_to(run.limits, (batch, len(run.limits))))
        new = run.new(run.repaired(drawn, generator))[:wanted]
        run.losses(new)
        found.append(new)
        wanted -= len(new)
        idle = 0 if len(new) else idle + 1
    return np.concatenate(found)


def _crossed(parents: Places, count: int, generator: np.random.Generator) -> Places:
    """Children that have each width from one of two parents."""
    first, second = parents[generator.integers(len(parents), size=(2, count))]
    return np.where(generator.random(first.shape) < 0.5, first, second)


def _mutated(parents: Places, count: int, sizes: Places, probability: float, generator: np.random.Generator) -> Places:
    """Children of one parent with some widths changed: half of the changes by one choice, half to any choice."""
    children = parents[generator.integers(len(parents), size=count)]
    changed = generator.random(children.shape) < probability
    changed[np.arange(count), generator.integers(len(sizes), size=count)] = True
    beside = np.clip(children + generator.choice([-1, 1], size=children.shape), 0, sizes - 1)
    anywhere = generator.integers(sizes, size=children.shape)
    return np.where(changed, np.where(generator.random(children.shape) < 0.5, beside, anywhere), children)


def _ladders(sizes: Places, trials: int) -> list[Places]:
    """Places of the choices where the descent of each width halts, ascending: as many as ``trials`` allow."""
    count = len(sizes)

    def worst(most: int) -> int:
        steps = np.minimum(sizes - 1, most)
        return int(1 + count * (steps - 1).sum() + count * (count + 1) // 2)

    if worst(1) > trials:
        raise SearchError(
            f"a descent over {count} widths may need {worst(1)} trials even in single steps, got {trials}"
        )
    most = max(steps for steps in range(1, int(sizes.max())) if worst(steps) <= trials)
    return [np.rint(np.linspace(0, size - 1, min(int(size), most + 1))).astype(np.int64) for size in sizes]


def _steps_down(run: Trials, rungs: Places, places: Callable[[Places], Places]) -> tuple[Places, Floats]:
    """For each width the next smaller halt that saves anything, and what it saves; where none does, all next ones."""
    steps = np.eye(len(rungs), dtype=np.int64)[np.flatnonzero(rungs)]
    paid = run.costs(places(rungs[None]))[0]
    exceeded = paid > run.limits
    lowered = rungs - steps
    while True:
        saved = ((paid - run.costs(places(lowered)))[:, exceeded] / (paid - run.limits)[exceeded]).sum(1)
        stuck = (saved <= 0) & ((lowered * steps).sum(1) > 0)
        if not stuck.any():
            break
        lowered[stuck] -= steps[stuck]
    if (saved > 0).any():
        return lowered[saved > 0], saved[saved > 0]
    return rungs - steps, np.ones(len(steps))
