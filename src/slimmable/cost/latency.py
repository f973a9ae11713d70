"""Milliseconds of any widths, from timings of some."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.analytic import channels_of
from slimmable.cost.features import Extent, Features, Floats, evaluate, features
from slimmable.cost.timing import Timing
from slimmable.errors import CheckpointError, CostError, MissingDependencyError
from slimmable.record import Json, atomic_write_json, environment

SCHEMA_VERSION = 2

_ROWS = 8192
_FOLDS = 5
_PENALTIES = (0.0, 0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Term:
    """``milliseconds`` times the positions of at most a few axes; see :class:`slimmable.cost.features.Extent`."""

    milliseconds: float
    extents: tuple[Extent, ...]


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    r"""Latency as a sum of monotone functions of the channels that layers read and write.

    .. math:: t(w) = t_0 + \sum_l f_l(c^\text{in}_l, c^\text{out}_l)

    Each :math:`f_l` is a sum, with coefficients that are not negative, of the layer's multiply-accumulates (with
    channels as they are, and rounded up to what vector units take at once), of the elements it reads and of those it
    writes. More channels never cost less, each layer is compared with itself only, and every term depends on two width
    groups at most, which is what exact search needs.

    Attributes:
        space: The widths it is about.
        terms: Its parts.
        error: Mean absolute percentage error on timings that were not fitted.
        spread: The percentage error that one in twenty of those timings exceeded.
        device: Where those timings were taken; see :func:`slimmable.cost.timing.device_record`.
        name: What it tells of widths.
        unit: In what.

    References:
        Berman, Pishchulin, Xu, Blaschko, Medioni. AOWS: Adaptive and Optimal Network Width Search with Latency
        Constraints. CVPR 2020: whole networks are timed, and an additive pairwise model is fitted by
        non-negative least squares. (Monotonicity is a penalty there; here no coefficients violate it.)

    Example:
        >>> import torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 8))
        >>> net = slimmable.convert(plain, torch.ones(1, 8))
        >>> times = {k: 1 + k / 64 for k in range(16, 65, 8)}
        >>> timings = [Timing(widths=net.space.widths([k]), milliseconds=t, low=t, high=t) for k, t in times.items()]
        >>> model = LatencyModel.fit(net, timings)
        >>> model([net.space.smallest, net.space.largest]).round(3).tolist()
        [1.25, 2.0]
    """

    space: WidthSpace
    terms: tuple[Term, ...]
    error: float
    spread: float
    device: Mapping[str, Json] = field(default_factory=environment)

    name = "latency"
    unit = "ms"

    @staticmethod
    def fit(
        net: SlimmableModel,
        timings: Sequence[Timing],
        *,
        held_out: Sequence[Timing] = (),
        device: Mapping[str, Json] | None = None,
    ) -> LatencyModel:
        r"""The model that tells the timings of ``net`` best, as relative errors go.

        With features :math:`F_{ij}` of timing :math:`t_i`, those of all layers of a kind (operator, kernel, stride,
        size of the map) together and those of each layer alone, it minimises

        .. math:: \sum_i \Bigl(\sum_j c_j F_{ij} / t_i - 1\Bigr)^2 + \lambda \sum_{j\,\text{of one layer}}
            c_j^2 \sum_i (F_{ij} / t_i)^2, \qquad c_j \ge 0.

        The penalty keeps layers close to their kind, so that a few hundred timings suffice; :math:`\lambda` is the one
        of 0, 0.01, 0.1 and 1 with the least error in five-fold cross-validation.

        Args:
            net: The network that was timed.
            timings: What to fit, of various widths.
            held_out: Timings of other widths, for ``error``; without them that of the cross-validation.
            device: What to note of the device; this machine's environment if not given.

        Raises:
            CostError: Fewer than five timings, or times that are not positive.
            WidthError: Timings of another network's widths.
            MissingDependencyError: SciPy is not installed.
        """
        if len(timings) < _FOLDS:
            raise CostError(f"expected at least {_FOLDS} timings to fit a model to, got {len(timings)}")
        channels = channels_of(net.space, [timing.widths for timing in timings])
        found = Features(features(net))
        times, values = _times(timings), found(channels)
        errors = [_cross_validated(found, values, times, penalty) for penalty in _PENALTIES]
        best = int(np.argmin([each.mean() for each in errors]))
        weights = found.weights @ _coefficients(found, values, times, _PENALTIES[best])
        terms = tuple(
            Term(milliseconds=float(weight), extents=extents)
            for weight, extents in zip(weights, found.products, strict=True)
            if weight > 0
        )
        record = environment() if device is None else device
        model = LatencyModel(space=net.space, terms=terms, device=record, **_stated(errors[best]))
        if not held_out:
            return model
        told = model([timing.widths for timing in held_out])
        return replace(model, **_stated(_errors(told, _times(held_out))))

    def __call__(self, widths_list: Sequence[Widths]) -> Floats:
        """Milliseconds at each of the widths, shape ``(len(widths_list),)``.

        Raises:
            WidthError: Widths of another network.

        Cost:
            A few numpy operations for each term; no loop over the widths but to read their channels.
        """
        channels = channels_of(self.space, widths_list)
        products = [term.extents for term in self.terms]
        weights = np.array([term.milliseconds for term in self.terms])
        rows = range(0, len(channels), _ROWS)
        parts = [evaluate(products, channels[first : first + _ROWS]) @ weights for first in rows]
        return np.concatenate([np.zeros(0), *parts])

    def cautious(self) -> LatencyModel:
        """The model with ``spread`` percent added: nineteen of twenty widths take no longer than it tells.

        Searches keep their budgets by it. They look for widths that seem fast, and so for those whose latency the model
        tells too short.
        """
        factor = 1 + self.spread / 100
        terms = (replace(term, milliseconds=term.milliseconds * factor) for term in self.terms)
        return replace(self, terms=tuple(terms))

    def save(self, path: str | Path) -> None:
        """Write the model as JSON, whole or not at all."""
        atomic_write_json(path, self.to_json())

    def to_json(self) -> dict[str, Json]:
        """A JSON object that :meth:`from_json` reads."""
        terms: list[Json] = [
            {
                "milliseconds": term.milliseconds,
                "extents": [[e.constant, [list(part) for part in e.parts], e.lane] for e in term.extents],
            }
            for term in self.terms
        ]
        return {
            "schema": SCHEMA_VERSION,
            "cost": self.name,
            "unit": self.unit,
            "error_percent": self.error,
            "spread_percent": self.spread,
            "device": dict(self.device),
            "space": self.space.to_json(),
            "terms": terms,
        }

    @staticmethod
    def load(path: str | Path, space: WidthSpace) -> LatencyModel:
        """Read a model of the latency at widths of ``space``.

        Raises:
            CheckpointError: The file is missing or damaged, holds something else, or belongs to another space.
        """
        try:
            value: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as a latency model: {error}") from error
        return LatencyModel.from_json(value, space, path)

    @staticmethod
    def from_json(value: Any, space: WidthSpace, path: str | Path) -> LatencyModel:
        """The inverse of :meth:`to_json`; ``path`` is named in errors.

        Raises:
            CheckpointError: The value is something else, or belongs to another space.
        """
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA_VERSION or value.get("cost") != LatencyModel.name:
            raise CheckpointError(
                f"{path} has schema version {schema!r}; expected a latency model of version {SCHEMA_VERSION}, as "
                "slimmable profile writes it"
            )
        try:
            if value["space"] != json.loads(json.dumps(space.to_json())):
                raise CheckpointError(
                    f"{path} tells the latency of another network or of another range of widths; profile this one"
                )
            if "terms" not in value:
                raise CheckpointError(f"{path} holds timings, but no model yet; go on with slimmable profile --resume")
            terms = tuple(
                Term(
                    milliseconds=float(term["milliseconds"]),
                    extents=tuple(
                        Extent(int(constant), tuple((int(g), int(u), int(r)) for g, u, r in parts), int(lane))
                        for constant, parts, lane in term["extents"]
                    ),
                )
                for term in value["terms"]
            )
            return LatencyModel(
                space=space,
                terms=terms,
                error=float(value["error_percent"]),
                spread=float(value["spread_percent"]),
                device=value["device"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is a damaged latency model: {error!r}") from error


def _times(timings: Sequence[Timing]) -> Floats:
    times = np.array([timing.milliseconds for timing in timings])
    if not (np.isfinite(times) & (times > 0)).all():
        raise CostError("expected timings above 0 ms; measure them again")
    return times


def _errors(told: Floats, times: Floats) -> Floats:
    """Absolute percentage errors."""
    return np.abs(told / times - 1) * 100


def _stated(errors: Floats) -> dict[str, float]:
    return {"error": float(errors.mean()), "spread": float(np.quantile(errors, 0.95))}


def _cross_validated(found: Features, values: Floats, times: Floats, penalty: float) -> Floats:
    """Absolute percentage errors on timings left out in turn."""
    fold = np.arange(len(times)) % _FOLDS
    told = np.zeros(len(times))
    for left_out in range(_FOLDS):
        kept = fold != left_out
        told[~kept] = values[~kept] @ _coefficients(found, values[kept], times[kept], penalty)
    return _errors(told, times)


def _coefficients(found: Features, values: Floats, times: Floats, penalty: float) -> Floats:
    """Milliseconds for one of each feature."""
    try:
        from scipy.optimize import nnls
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "fitting a latency model needs SciPy, which is not installed; cure: pip install 'slimmable[search]'",
            name="scipy",
        ) from error
    relative = values / times[:, None]
    scale = np.linalg.norm(relative, axis=0)
    rows = np.diag(np.sqrt(penalty) * found.own)[found.own] if penalty else np.zeros((0, len(scale)))
    wanted = np.concatenate([np.ones(len(times)), np.zeros(len(rows))])
    solved, _ = nnls(np.concatenate([relative / scale, rows]), wanted, maxiter=30 * len(scale))
    return solved / scale
