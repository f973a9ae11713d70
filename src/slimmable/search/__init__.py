"""Where to look: which widths to try, and which to choose for a budget."""

from slimmable.search.additive import Additive
from slimmable.search.budget import Solution, within_budget
from slimmable.search.elimination import Elimination
from slimmable.search.knapsack import fill_budget
from slimmable.search.tables import Alternatives, additive

__all__ = ["Additive", "Alternatives", "Elimination", "Solution", "additive", "fill_budget", "within_budget"]
