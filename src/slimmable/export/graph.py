"""A weight-less graph of one width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network of one width without its tensors.

    Attributes:
        content: The graph as a backend reads it, uncompressed.
        parts: Names of the module's tensors that it takes, which have the same names in the graph.
        extra: Tensors that the exporter made, under names that no part has; they are stored with the width.
        any_batch: Whether it runs at other batches than the example's.
    """

    content: bytes
    parts: tuple[str, ...]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    any_batch: bool = True
