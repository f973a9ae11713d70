"""The active widths of a network: the one place that elastic modules read, and the plans behind it.

A **plan** holds, for one ``Widths``, the value of every elastic attribute of the network: leaf tensors that share
storage with the full parameters (so that no step copies weights), sizes, and batch-norm statistics. Plans are built
once and kept; switching to a width used before is one assignment.

Gradients take one of two ways. Ordinarily an elastic parameter is sliced at every access, under autograd: always
right, with hooks, double backward and functional calls. Inside :meth:`State.share_gradients` modules read the plan's
leaves, and ``commit`` adds the leaves' gradients to those of the full parameters after each width's backward pass: no
launch of a kernel more than a native network needs, bit for bit the same gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.axes import Axis
from slimmable.core.norms import NormLayer, NormTable
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import CalibrationError, WidthError

BatchNorm = Literal["calibrated", "private", "naive"]

_PLANS = 256

Run = tuple[int, int]
Cut = tuple[int, list[Run]]
"""A dimension and its active runs."""


@dataclass(frozen=True)
class TensorSlot:
    """An elastic parameter or buffer; ``moving`` are its dimensions that vary."""

    module: nn.Module
    name: str
    moving: tuple[tuple[int, Axis], ...]
    norm: tuple[int, str] | None = None

    @property
    def owner(self) -> dict[str, Any]:
        """The dictionary that holds the tensor at full width."""
        return self.module._parameters if self.name in self.module._parameters else self.module._buffers

    @property
    def full(self) -> Tensor:
        """The tensor at full width."""
        return self.owner[self.name]


@dataclass(frozen=True)
class StatisticSlot:
    """Running statistics of a normalisation layer: ``mean``, ``var`` or ``count``."""

    layer: int
    name: str


@dataclass(frozen=True)
class SizeSlot:
    """A whole-number attribute: positions of an axis times ``multiply`` over ``divide``; maybe a tuple of them."""

    axes: tuple[Axis, ...]
    multiply: int
    divide: int
    is_tuple: bool

    def value(self, channels: Sequence[int]) -> int | tuple[int, ...]:
        """The attribute at given widths."""
        if not self.is_tuple:
            return self.axes[0].size(channels) * self.multiply // self.divide
        return tuple(axis.size(channels) * self.multiply // self.divide for axis in self.axes)


@dataclass(frozen=True)
class ScaleSlot:
    """Full input channels over active ones (``averaged`` layers)."""

    axis: Axis
    full: int

    def value(self, channels: Sequence[int]) -> float:
        """The factor at given widths."""
        return self.full / self.axis.size(channels)


Slot = TensorSlot | StatisticSlot | SizeSlot | ScaleSlot


@dataclass(frozen=True)
class Source:
    """The full tensor of a slot, taken apart once for all plans."""

    full: Tensor
    detached: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class Plan:
    """The value of every slot at one width."""

    widths: Widths
    table: NormTable | None
    values: list[Any]
    leaves: list[tuple[Tensor, TensorSlot]]
    cuts: dict[int, list[Cut]] = field(default_factory=dict)
    gathered: dict[int, tuple[int, int, Tensor]] = field(default_factory=dict)


class State:
    """Active widths and everything that depends on them."""

    def __init__(self, space: WidthSpace, norm_layers: Sequence[NormLayer], batch_norm: BatchNorm) -> None:
        self.space = space
        self.maximum = space.largest.channels
        self.norm_layers = tuple(norm_layers)
        self.batch_norm: BatchNorm = batch_norm
        self.slots: list[Slot] = []
        self.tables: dict[Widths, NormTable] = {}
        self.shares_gradients = False
        self.trained = 0
        self.widths = space.base
        self.plan: Plan
        self.active: list[Any]
        self._plans: OrderedDict[Widths, Plan] = OrderedDict()
        self._visited: dict[int, Plan] = {}
        self._fingerprint: tuple[Any, ...] = ()
        self._sources: dict[int, Source] = {}
        self._axes: list[Axis] = []
        self._owners: list[tuple[dict[str, Any], str]] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("active", "plan"):  # a copy was made: its plans are built when they are first needed
            self.set(self.widths)
            return self.__dict__[name]
        raise AttributeError(name)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("active", None)
        state.pop("plan", None)
        state |= {"_plans": OrderedDict(), "_visited": {}, "_fingerprint": (), "shares_gradients": False}
        return state | {"_sources": {}, "_axes": [], "_owners": []}

    def set(self, widths: Widths) -> None:
        """Make ``widths`` the active ones."""
        plan = self._plans.get(widths)
        if plan is None:
            plan = self._remember(self._build(widths))
        before = self.__dict__.get("plan")
        if before is not None and before is not plan:
            before.gathered.clear()  # these are copies: kept for every width, they would be many networks
        self.plan, self.active, self.widths = plan, plan.values, plan.widths
        if self.shares_gradients:
            self._visited[id(plan)] = plan

    def drop(self, widths: Widths | None = None) -> None:
        """Forget the plan of ``widths``, or all plans, because a tensor behind them was replaced."""
        if widths is None:
            self._plans.clear()
            self._sources.clear()
        else:
            self._plans.pop(widths, None)
        self.set(self.widths)

    def refresh(self) -> None:
        """Drop all plans if a full tensor was replaced, moved, frozen or unfrozen since they were built."""
        tensors = self._tensors()
        found = (tuple(map(Tensor.data_ptr, tensors)), tuple(tensor.requires_grad for tensor in tensors))
        if found != self._fingerprint:
            self._fingerprint = found
            self.drop()

    def differentiable(self, index: int) -> Tensor | None:
        """An elastic tensor sliced under autograd (or, where its segments lie apart, gathered)."""
        slot = self.slots[index]
        assert isinstance(slot, TensorSlot)
        if slot.norm is not None and self.plan.table is not None and self.plan.table.kind == "private":
            return self.plan.values[index]
        full = slot.full
        if torch.is_grad_enabled():
            return _gather(full, self._cuts(index, slot, full))
        known = self.plan.gathered.get(index)
        now = (full.data_ptr(), full._version + self.trained)
        if known is None or known[:2] != now:
            with torch.inference_mode(False):
                known = (*now, _gather(full.detach(), self._cuts(index, slot, full)))
            self.plan.gathered[index] = known
        return known[2]

    @contextmanager
    def share_gradients(self) -> Iterator[Callable[[], None]]:
        """Let modules read leaves; yields ``commit``, which adds their gradients to those of the full parameters.

        Call it after each width's backward pass, to hold the gradients of one width only; what is left is committed
        at the end.
        """
        self.refresh()
        self._visited = {id(self.plan): self.plan}
        self.shares_gradients = True
        try:
            yield self._commit
            self._commit()
        finally:
            for plan in self._visited.values():
                for leaf, _ in plan.leaves:
                    leaf.grad = None
            self._visited = {}
            self.shares_gradients = False

    def require_statistics(self) -> None:
        """Pass if batch norm knows the active widths.

        Raises:
            CalibrationError: It does not.
        """
        if self.batch_norm != "naive" and (self.plan.table is None or not self.plan.table.ready):
            known = [str(widths) for widths, table in self.tables.items() if table.ready]
            raise CalibrationError(
                f"batch norm has no statistics for {self.widths}; "
                f"it knows {len(known)} widths ({', '.join(known[:3]) or 'none'}). "
                "Run slimmable.calibrate(net, batches, [widths]) on a thousand training samples first"
            )

    def require_current(self) -> None:
        """Pass if the active widths' calibration was made with the present weights.

        Raises:
            CalibrationError: The weights have changed since.
        """
        table = self.plan.table
        if self.norm_layers and table is not None and table.kind == "calibrated" and table.version != self.version():
            raise CalibrationError(
                f"the weights have changed since batch norm was calibrated for {self.widths}; "
                "run slimmable.calibrate(net, batches, [widths]) again"
            )

    def version(self) -> int:
        """A number that grows whenever a full parameter is changed in place, and with every forward pass that trains.

        (Fused optimizers write past the counters of their parameters; a forward pass in training announces them.)
        """
        return self.trained + sum(tensor._version for tensor in self._tensors())

    def _remember(self, plan: Plan) -> Plan:
        self._plans[plan.widths] = plan
        if len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        return plan

    def _build(self, widths: Widths) -> Plan:
        self.space.check(widths)
        table = self.tables.get(widths)
        if self.norm_layers and self.batch_norm == "private" and table is None:
            switches = ", ".join(map(str, self.tables))
            raise WidthError(
                f"{widths} is not a switch of this network, whose batch norm is private to {switches}; "
                "convert without switches to run at any width"
            )
        channels = widths.channels
        plan = Plan(widths, table, [], [])
        with torch.inference_mode(False), torch.no_grad():
            if not self._sources:
                self._take_apart()
            sizes = {id(axis): axis.size(channels) for axis in self._axes}
            for index, slot in enumerate(self.slots):
                if isinstance(slot, TensorSlot):
                    plan.values.append(self._tensor(plan, index, slot, sizes))
                elif isinstance(slot, StatisticSlot):
                    plan.values.append(None if table is None else table.value(slot.layer, slot.name))
                else:
                    plan.values.append(slot.value(channels))
        return plan

    def _tensor(self, plan: Plan, index: int, slot: TensorSlot, sizes: Mapping[int, int]) -> Tensor | None:
        """The value of an elastic tensor: itself, a leaf that shares its storage, or None if it must be gathered."""
        if slot.norm is not None and plan.table is not None and (own := plan.table.value(*slot.norm)) is not None:
            return own
        source = self._sources[index]
        shape = source.shape
        for dim, axis in slot.moving:
            size = sizes[id(axis)]
            if size != shape[dim]:
                if len(axis.segments) > 1 and not axis.leading(plan.widths.channels, self.maximum):
                    return None
                shape = (*shape[:dim], size, *shape[dim + 1 :])
        if shape is source.shape:
            return source.full
        leaf = source.detached.as_strided(shape, source.stride, source.offset)
        if isinstance(source.full, nn.Parameter):
            leaf.requires_grad_(source.full.requires_grad)
            plan.leaves.append((leaf, slot))
        return leaf

    def _take_apart(self) -> None:
        """Note what all plans are made from."""
        axes: dict[int, Axis] = {}
        for index, slot in enumerate(self.slots):
            if isinstance(slot, TensorSlot):
                axes |= {id(axis): axis for _, axis in slot.moving}
                if not self._is_private(slot):
                    full = slot.full
                    offset = int(full.storage_offset())
                    self._sources[index] = Source(full, full.detach(), tuple(full.shape), full.stride(), offset)
        self._axes = list(axes.values())

    def _cuts(self, index: int, slot: TensorSlot, full: Tensor) -> list[Cut]:
        """Dimensions of a tensor that are narrower at the active widths, and their runs."""
        known = self.plan.cuts.get(index)
        if known is None:
            channels = self.widths.channels
            known = self.plan.cuts[index] = [
                (dim, axis.active(channels, self.maximum))
                for dim, axis in slot.moving
                if axis.size(channels) != full.shape[dim]
            ]
        return known

    def _commit(self) -> None:
        """Add the gradients of all leaves read since the last commit to the full parameters' own."""
        for plan in self._visited.values():
            pending: dict[int, tuple[Tensor, Tensor]] = {}
            for leaf, slot in plan.leaves:
                gradient = leaf.grad
                if gradient is None:
                    continue
                full = slot.full
                if full.grad is None:
                    full.grad = torch.zeros_like(full)
                if id(full) in pending:  # one kernel adds all that is pending, in no order: no target may occur twice
                    _add(pending)
                    pending = {}
                target = full.grad.as_strided(gradient.shape, full.grad.stride(), full.grad.storage_offset())
                pending[id(full)] = (target, gradient)
                leaf.grad = None
            _add(pending)

    def _is_private(self, slot: TensorSlot) -> bool:
        """Whether the slot's tensors live in tables alone."""
        return slot.norm is not None and self.batch_norm == "private"

    def _tensors(self) -> list[Tensor]:
        """Full tensors, but for those that live in tables."""
        if not self._owners:
            slots = [slot for slot in self.slots if isinstance(slot, TensorSlot) and not self._is_private(slot)]
            self._owners = [(slot.owner, slot.name) for slot in slots]
        return [owner[name] for owner, name in self._owners]


def _add(pending: Mapping[int, tuple[Tensor, Tensor]]) -> None:
    """Add to every first tensor the second."""
    if pending:
        targets, gradients = zip(*pending.values(), strict=True)
        with torch.no_grad():
            torch._foreach_add_(targets, gradients)  # pyright: ignore[reportPrivateImportUsage]


def _gather(full: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Active runs of every dimension."""
    for dim, runs in cuts:
        parts = [full.narrow(dim, start, length) for start, length in runs]
        full = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
    return full
