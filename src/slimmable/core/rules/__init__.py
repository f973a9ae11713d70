"""One rule per operator: what it does to the channel axes of its inputs.

Importing this package fills :data:`slimmable.core.operators.RULES`.
"""

from slimmable.core.operators import operator_rule
from slimmable.core.rules import elementwise, layers, products, reshape, shapes

__all__ = ["elementwise", "layers", "operator_rule", "products", "reshape", "shapes"]
