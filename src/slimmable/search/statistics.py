"""What each channel count of each width costs in loss, on average over recent configurations that have it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from slimmable.errors import CheckpointError, SearchError
from slimmable.record import Json
from slimmable.search.additive import Additive, Floats


class ChoiceLosses:
    r"""Moving averages of the loss for every choice of every width: the unary terms of OWS.

    If losses are sums :math:`L(c) = \sum_i L_i(c_i)` and every width is drawn independently of the others, the mean
    loss of the configurations with :math:`c_i = k` is :math:`L_i(k)` plus a constant of the width. The means are
    divided by the number of widths, so that their sum is a loss of the usual size.

    Args:
        sizes: Number of choices of each width.
        window: Most recent losses that a mean is taken over.

    References:
        Berman et al. AOWS: Adaptive and Optimal Network Width Search with Latency Constraints. CVPR 2020, section 4.
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Eq. 2.

    >>> losses = ChoiceLosses([2], window=2)
    >>> for loss in (9.0, 1.0, 3.0):
    ...     losses.add([0], loss)
    >>> losses.add([1], 0.5)
    >>> [table.tolist() for table in losses.unary().unary]
    [[2.0, 0.5]]
    """

    def __init__(self, sizes: Sequence[int], *, window: int) -> None:
        if window < 1:
            raise SearchError(f"expected a window of at least 1 loss, got {window}")
        self.window = window
        self._recent: list[list[deque[float]]] = [[deque(maxlen=window) for _ in range(size)] for size in sizes]

    @property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Losses that every mean is taken over."""
        return tuple(tuple(map(len, choices)) for choices in self._recent)

    @property
    def known(self) -> bool:
        """Whether something is known of every width."""
        return all(any(counts) for counts in self.counts)

    def add(self, choices: Sequence[int], loss: float) -> None:
        """Take in the loss of one configuration."""
        for place, choice in enumerate(choices):
            self._recent[place][choice].append(loss)

    def unary(self) -> Additive:
        """The means as a function of the choices; one never met has that between its neighbours.

        Raises:
            SearchError: A width of which no choice was met.
        """
        tables: list[Floats] = []
        for place, choices in enumerate(self._recent):
            met = [choice for choice, losses in enumerate(choices) if losses]
            if not met:
                raise SearchError(
                    f"no loss is known for any choice of width {place}: train or evaluate random configurations first"
                )
            means = [sum(choices[choice]) / len(choices[choice]) for choice in met]
            tables.append(np.interp(np.arange(len(choices)), met, means) / len(self._recent))
        return Additive(unary=tuple(tables), pairs={})

    def state_dict(self) -> dict[str, Json]:
        """The losses, in JSON types."""
        return {"window": self.window, "losses": [[list(losses) for losses in choices] for choices in self._recent]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the losses of :meth:`state_dict`.

        Raises:
            CheckpointError: They are those of other choices, or of another window.
        """
        losses = state["losses"]
        if state["window"] != self.window or [len(choices) for choices in losses] != [len(c) for c in self._recent]:
            raise CheckpointError(
                f"the statistics have a window of {state['window']} and {[len(c) for c in losses]} choices, expected "
                f"{self.window} and {[len(c) for c in self._recent]}"
            )
        self._recent = [[deque(these, maxlen=self.window) for these in choices] for choices in losses]


def falling(function: Additive) -> Additive:
    r"""The unary terms nearest to the given ones that never rise with the width: wider layers do not hurt.

    Least squares under monotonicity, by pooling adjacent violators: what few noisy losses say of neighbouring widths is
    averaged where it contradicts that.

    >>> falling(Additive(unary=(np.array([3.0, 1.0, 2.0, 0.0]),), pairs={})).unary[0].tolist()
    [3.0, 1.5, 1.5, 0.0]
    """
    tables = []
    for table in function.unary:
        blocks: list[tuple[float, int]] = []
        for value in table.tolist():
            blocks.append((value, 1))
            while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
                (a, m), (b, n) = blocks[-2:]
                blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
        assert all(a[0] >= b[0] for a, b in pairwise(blocks))
        tables.append(np.concatenate([np.full(count, mean) for mean, count in blocks]))
    return Additive(unary=tuple(tables), pairs=function.pairs)
