"""Answers in JSON, which has no NaN and no infinities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_AT_ONCE = 4096
"""Numbers that are written in one go, in about a millisecond; no other thread runs meanwhile."""


def encoded(value: Any) -> bytes:
    """JSON, compact."""
    return _text(value).encode()


def is_quick(outputs: Sequence[np.ndarray]) -> bool:
    """Whether an answer with these outputs is written without noticeable work."""
    return sum(output.size for output in outputs) <= _AT_ONCE


def with_head(head: Mapping[str, Any], rest: bytes) -> bytes:
    """One JSON object of two, the second of which has been written already.

    >>> with_head({"width": "0.5"}, b'{"outputs":[[1]]}')
    b'{"width":"0.5","outputs":[[1]]}'
    """
    return encoded(head)[:-1] + b"," + rest[1:]


def answer(outputs: Sequence[np.ndarray], labels: Sequence[str] | None, top: int) -> bytes:
    """What outputs say: the likeliest classes of each example, if they are scores of labelled classes; or themselves.

    Probabilities are the softmax of the scores. A value that is not finite becomes ``null``.

    Args:
        outputs: Outputs in order; the first dimension is the batch.
        labels: Names of the classes.
        top: Classes to tell.

    Example:
        >>> answer([np.log([[0.2, 0.8]])], ["cat", "dog"], top=1)
        b'{"predictions":[[{"label":"dog","index":1,"probability":0.8}]]}'
        >>> answer([np.array([[1.0, np.nan]])], None, top=1)
        b'{"outputs":[[[1.0,null]]]}'
    """
    if labels is not None and len(outputs) == 1 and outputs[0].shape[1:] == (len(labels),):
        return encoded({"predictions": [_likeliest(scores, labels, top) for scores in outputs[0]]})
    return f'{{"outputs":[{",".join(map(_numbers, outputs))}]}}'.encode()


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _numbers(array: np.ndarray) -> str:
    """Nested lists; large arrays are written in pieces, between which other threads have their turn."""
    if array.size <= _AT_ONCE:
        return _text(_plain(array))
    if len(array) == 1:
        return f"[{_numbers(array[0])}]"
    pieces = np.array_split(array, min(len(array), -(-array.size // _AT_ONCE)))
    return f"[{','.join(_numbers(piece)[1:-1] for piece in pieces)}]"


def _plain(array: np.ndarray) -> Any:
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
