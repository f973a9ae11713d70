"""Where to look: which widths to try, and which to choose for a budget."""

from slimmable.search.additive import Additive
from slimmable.search.budget import Solution, within_budget
from slimmable.search.elimination import Elimination

__all__ = ["Additive", "Elimination", "Solution", "within_budget"]
