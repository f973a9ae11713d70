"""A front of losses and costs by NSGA-II."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from slimmable.core.space import WidthSpace
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search.pareto import Front
from slimmable.search.trials import Budget, Objective, Trials

_GENERATIONS_WITHOUT_NEWS = 20
_SPREAD = 3  # distribution index of both operators: children far enough from their parents to be another choice


def nsga2(
    space: WidthSpace,
    objective: Objective,
    budgets: Sequence[Budget],
    *,
    trials: int,
    seed: int = 0,
    population: int = 40,
    progress: bool = False,
) -> Front:
    """The front of losses and costs that a genetic algorithm finds, for all budgets at once.

    The objectives are the loss and the cost of every budget. The first population costs evenly from the least up to
    the budgets. Parents are drawn by rank among the fronts and by distance to their neighbours; children come from
    simulated binary crossover and polynomial mutation of the places of the choices, rounded. Of a child that exceeds a
    budget, random widths are lowered, choice by choice, until it does not: no trial is spent beyond the budgets.

    Args:
        space: Where to search.
        objective: What is minimised beside the costs.
        budgets: The costs, and the most of each that is of interest.
        trials: Most evaluations.
        seed: Of all draws.
        population: Candidates per generation, and at most per call of ``objective``.
        progress: Whether to show a bar.

    Returns:
        The front of everything evaluated.

    Raises:
        SearchError: A budget that no widths keep, or a population below 2.
        MissingDependencyError: pymoo is not installed.

    References:
        Deb et al. A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II. IEEE Transactions on Evolutionary
        Computation, 2002.
    """
    if population < 2:
        raise SearchError(f"nsga2(population={population}); expected at least 2: crossover needs two parents")
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.evaluator import Evaluator
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.problems.static import StaticProblem
        from pymoo.termination.max_gen import MaximumGenerationTermination
    except ImportError as error:
        raise MissingDependencyError("nsga2 needs pymoo: pip install 'slimmable[search]'") from error
    run = Trials(space, objective, budgets, trials=trials, progress=progress)
    generator = np.random.default_rng(seed)
    first = run.spread(min(population, trials), generator)
    first[0] = run.smallest
    algorithm = NSGA2(
        pop_size=population,
        sampling=first,  # pyright: ignore[reportArgumentType]
        crossover=SBX(eta=_SPREAD, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=_SPREAD, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=False,
    )
    problem = Problem(n_var=len(run.sizes), n_obj=1 + len(budgets), xl=run.smallest, xu=run.largest, vtype=int)
    algorithm.setup(problem, termination=MaximumGenerationTermination(sys.maxsize), seed=seed, verbose=False)
    idle = 0
    with run.watched("NSGA-II"):
        while run.left and idle < _GENERATIONS_WITHOUT_NEWS:
            children = algorithm.ask()
            assert children is not None
            places = run.repaired(np.rint(children.get("X")).astype(np.int64), generator)
            new = run.new(places)
            idle = 0 if len(new) else idle + 1
            if not len(new):
                continue
            rows = places.tolist()
            told = Population([children[rows.index(row)] for row in new.tolist()])  # pyright: ignore[reportArgumentType]
            told.set("X", new)
            values = np.column_stack([run.losses(new), run.costs(new)])
            Evaluator().eval(StaticProblem(problem, F=values), told)
            algorithm.tell(infills=told)
    return run.front()
