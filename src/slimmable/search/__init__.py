"""Where to look: which widths to try, and which to choose for a budget."""

from slimmable.search.additive import Additive
from slimmable.search.budget import Solution, within_budget
from slimmable.search.elimination import Elimination
from slimmable.search.genetic import nsga2
from slimmable.search.knapsack import fill_budget
from slimmable.search.ows import Adaptation, Ows, Temperatures
from slimmable.search.pareco import PareCo, bayesian
from slimmable.search.pareto import Front, Point, area_under_curve, hypervolume, non_dominated, unevenness
from slimmable.search.platforms import TARGET_MACS, TARGET_RATIOS, WEIGHTINGS, Platform, weighted_average, weights_of
from slimmable.search.posterior import evolution, greedy, random_search
from slimmable.search.restaurant import ChineseRestaurant
from slimmable.search.statistics import ChoiceLosses
from slimmable.search.surrogate import Acquisition, Surrogate
from slimmable.search.tables import Alternatives, additive
from slimmable.search.trials import Budget, Objective

__all__ = [
    "TARGET_MACS",
    "TARGET_RATIOS",
    "WEIGHTINGS",
    "Acquisition",
    "Adaptation",
    "Additive",
    "Alternatives",
    "Budget",
    "ChineseRestaurant",
    "ChoiceLosses",
    "Elimination",
    "Front",
    "Objective",
    "Ows",
    "PareCo",
    "Platform",
    "Point",
    "Solution",
    "Surrogate",
    "Temperatures",
    "additive",
    "area_under_curve",
    "bayesian",
    "evolution",
    "fill_budget",
    "greedy",
    "hypervolume",
    "non_dominated",
    "nsga2",
    "random_search",
    "unevenness",
    "weighted_average",
    "weights_of",
    "within_budget",
]
