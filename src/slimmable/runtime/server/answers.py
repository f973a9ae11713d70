"""Answers in JSON, which has no NaN and no infinities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np


def encoded(value: Any) -> bytes:
    """JSON, compact."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def answer(outputs: Sequence[np.ndarray], labels: Sequence[str] | None, top: int) -> dict[str, Any]:
    """What outputs say: the likeliest classes of each example, if they are scores of labelled classes; or themselves.

    Probabilities are the softmax of the scores. A value that is not finite becomes ``null``.

    Args:
        outputs: Outputs in order; the first dimension is the batch.
        labels: Names of the classes.
        top: Classes to tell.

    Example:
        >>> answer([np.log([[0.2, 0.8]])], ["cat", "dog"], top=1)
        {'predictions': [[{'label': 'dog', 'index': 1, 'probability': 0.8}]]}
        >>> answer([np.array([[1.0, np.nan]])], None, top=1)
        {'outputs': [[[1.0, None]]]}
    """
    if labels is not None and len(outputs) == 1 and outputs[0].shape[1:] == (len(labels),):
        return {"predictions": [_likeliest(scores, labels, top) for scores in outputs[0]]}
    return {"outputs": [plain(output) for output in outputs]}


def plain(array: np.ndarray) -> Any:
    """Nested lists, with None for what is not finite."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def _likeliest(scores: np.ndarray, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    with np.errstate(over="ignore", invalid="ignore"):
        shares = np.exp(scores.astype(np.float64) - np.max(scores))
        shares /= shares.sum()
    best = np.argsort(-scores, kind="stable")[:top]
    return [
        {
            "label": labels[index],
            "index": int(index),
            "probability": None if np.isnan(share) else round(float(share), 6),
        }
        for index, share in zip(best, shares[best], strict=True)
    ]
