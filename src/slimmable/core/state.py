"""The active widths of a network: the one place that elastic modules read, and the plans behind it.

A **plan** holds, for one ``Widths``, the value of every elastic attribute of the network: leaf tensors that share
storage with the full parameters (so that no step copies weights), sizes, and batch-norm statistics. Plans are built
once and kept; switching to a width used before is one assignment.

Gradients take one of two ways. Ordinarily an elastic parameter is sliced at every access, under autograd: always
right, with hooks, double backward and functional calls. Inside :meth:`State.share_gradients` modules read the plan's
leaves, and ``commit`` adds the leaves' gradients to those of the full parameters after each width's backward pass: no
launch of a kernel more than a native network needs, bit for bit the same gradients.

In evaluation without gradients, convolutions would copy a weight that is a slice of a larger one at every call; so the
widths used last hold such copies, until the weight changes or training goes on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.axes import Axis
from slimmable.core.norms import NormLayer, NormTable
from slimmable.core.slots import Slot, StatisticSlot, TensorSlot, memory_format
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import CalibrationError, WidthError

BatchNorm = Literal["calibrated", "private", "naive"]

_PLANS = 256
_PACKED = 4
"""Widths that hold packed copies of their weights: kept for every plan, they would be many networks."""

Run = tuple[int, int]
Cut = tuple[int, list[Run]]
"""A dimension and its active runs."""


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
    """The value of every slot at one width.

    Attributes:
        widths: The width.
        table: Its batch-norm table, if there is one.
        values: A value for each slot; None for tensors that are no single run of the full one.
        dense: The same without tensors that are strided.
        leaves: Those of the values that gather gradients.
        cuts: Runs of the tensors that were sliced under autograd.
        packed: Dense copies of tensors, with the full ones that they were made from and their version then.
    """

    widths: Widths
    table: NormTable | None
    values: list[Any] = field(default_factory=list)
    dense: list[Any] = field(default_factory=list)
    leaves: list[tuple[Tensor, TensorSlot]] = field(default_factory=list)
    cuts: dict[int, list[Cut]] = field(default_factory=dict)
    packed: dict[int, tuple[Tensor, int, Tensor]] = field(default_factory=dict)


class State:
    """Active widths and everything that depends on them."""

    def __init__(self, space: WidthSpace, norm_layers: Sequence[NormLayer], batch_norm: BatchNorm) -> None:
        self.space = space
        self.maximum = space.largest.channels
        self.norm_layers = tuple(norm_layers)
        self.batch_norm: BatchNorm = batch_norm
        self.switches: tuple[Widths, ...] = ()
        self.slots: list[Slot] = []
        self.rigid: list[tuple[nn.Module, str]] = []
        self.tables: dict[Widths, NormTable] = {}
        self.shares_gradients = False
        self.trained = 0
        self.steps = 0
        self.passes = 0
        self.widths = space.base
        self.plan: Plan
        self.active: list[Any]
        self.dense: list[Any]
        self._plans: OrderedDict[Widths, Plan] = OrderedDict()
        self._visited: dict[int, Plan] = {}
        self._packed: deque[Plan] = deque()
        self._seen: int | None = None
        self._addresses: tuple[int, ...] = ()
        self._trainable: tuple[bool, ...] = ()
        self._sources: dict[int, Source] = {}
        self._axes: list[Axis] = []
        self._owners: list[tuple[dict[str, Any], str]] = []
        self._watched: list[tuple[dict[str, Any], str]] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("active", "dense", "plan"):  # a copy was made: its plans are built when they are first needed
            self.set(self.widths)
            return self.__dict__[name]
        raise AttributeError(name)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("active", "dense", "plan"):
            state.pop(name, None)
        state |= {"_plans": OrderedDict(), "_visited": {}, "_packed": deque(), "shares_gradients": False}
        state |= {"_addresses": (), "_trainable": (), "_sources": {}, "_axes": [], "_owners": []}
        return state | {"_watched": [], "_seen": None}

    def set(self, widths: Widths) -> None:
        """Make ``widths`` the active ones."""
        plan = self._plans.get(widths)
        if plan is None:
            plan = self._remember(self._build(widths))
        self.plan, self.active, self.dense, self.widths = plan, plan.values, plan.dense, plan.widths
        if self.shares_gradients:
            self._visited[id(plan)] = plan

    def drop(self, widths: Widths | None = None) -> None:
        """Forget the plan of ``widths``, or all plans, because a tensor behind them was replaced."""
        if widths is None:
            self._plans.clear()
            self._sources.clear()
            self.unpack()
        else:
            self._plans.pop(widths, None)
        self.set(self.widths)

    def refresh(self) -> None:
        """Drop all plans if a full tensor was replaced or moved since they were built."""
        found = tuple(map(Tensor.data_ptr, self._tensors()))
        if found != self._addresses:
            self._addresses = found
            self.drop()

    def sliced(self, index: int) -> Tensor | None:
        """An elastic tensor sliced (under autograd, if that is on) or, in evaluation without gradients, packed."""
        slot = self.slots[index]
        assert isinstance(slot, TensorSlot)
        if slot.norm is not None and self.plan.table is not None and self.plan.table.kind == "private":
            return self.plan.values[index]
        if not torch.is_grad_enabled() and not slot.module.training:
            known = self.plan.packed.get(index)
            if known is None or known[0]._version + self.passes != known[1]:
                known = self.plan.packed[index] = self._pack(index, slot)
            return known[2]
        return _gather(slot.full, self._cuts(index, slot, slot.full))

    def unpack(self) -> None:
        """Forget all packed copies."""
        while self._packed:
            self._packed.popleft().packed.clear()

    def _pack(self, index: int, slot: TensorSlot) -> tuple[Tensor, int, Tensor]:
        if not self.plan.packed:
            self._packed.append(self.plan)
            if len(self._packed) > _PACKED:
                self._packed.popleft().packed.clear()
        full = slot.full
        with torch.inference_mode(False):
            part = _gather(full.detach(), self._cuts(index, slot, full))
            return full, full._version + self.passes, part.contiguous(memory_format=memory_format(full))

    @contextmanager
    def share_gradients(self) -> Iterator[Callable[[], None]]:
        """Let modules read leaves; yields ``commit``, which adds their gradients to those of the full parameters.

        Call it after each width's backward pass, to hold the gradients of one width only; what is left is committed
        at the end.
        """
        self.refresh()
        trainable = tuple(tensor.requires_grad for tensor in self._tensors())
        if trainable != self._trainable:
            self._trainable = trainable
            self.drop()
        self._visited = {id(self.plan): self.plan}
        self.steps, self._seen = self.steps + 1, None
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
        """Pass if the active widths' statistics belong to the present weights.

        Raises:
            CalibrationError: The weights have changed since.
        """
        table = self.plan.table
        if not self.norm_layers or table is None or not table.ready or self.is_current(table):
            return
        if table.kind == "calibrated":
            raise CalibrationError(
                f"the weights have changed since batch norm was calibrated for {self.widths}; "
                "run slimmable.calibrate(net, batches, [widths]) again"
            )
        raise CalibrationError(
            f"training has gone on without {self.widths}, so that the weights have changed since batch norm followed "
            "them; run slimmable.calibrate(net, batches, [widths]) again"
        )

    def is_current(self, table: NormTable, changes: int | None = None) -> bool:
        """Whether a table's statistics belong to the present weights, which were changed ``changes`` times."""
        if table.kind != "calibrated" and table.follows(self.steps):
            return table.ready
        changes = self.changes() if changes is None else changes
        if table.kind == "calibrated":
            return table.version == self.trained + changes
        unchanged = changes == self._seen  # by the last step of training, which is not over yet
        return unchanged and table.ready and table.follows(self.steps - 1)

    def follow(self) -> None:
        """Note a forward pass that trains at the active widths.

        A step of training begins with :meth:`share_gradients`, or where the weights have changed since the last pass.
        """
        if self.tables and not self.shares_gradients:
            changes = self.changes()
            if changes != self._seen:
                self.steps, self._seen = self.steps + 1, changes
        self.trained += 1
        table = self.plan.table
        if table is not None and table.kind != "calibrated":
            table.follow(self.steps)

    def stamp(self, table: NormTable) -> None:
        """Note that ``table`` belongs to the present weights."""
        table.version = self.trained + self.changes() if table.kind == "calibrated" else self.steps

    def changes(self) -> int:
        """How often parameters were changed in place, those included that no width changes.

        (Fused optimizers write past the counters of their parameters; a forward pass in training announces them. What
        is written through ``.data``, or by a fused optimizer while all is in evaluation mode, goes unseen.)
        """
        if not self._watched:
            self._watched = self._elastic() + [(module._parameters, name) for module, name in self.rigid]
        found = [owner.get(name) for owner, name in self._watched]
        return sum([tensor._version for tensor in found if tensor is not None])

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
        plan = Plan(widths, table)
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
        strided = {id(leaf) for leaf, slot in plan.leaves if not leaf.is_contiguous(memory_format=memory_format(leaf))}
        plan.dense = [None if id(value) in strided else value for value in plan.values]
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
        return [owner[name] for owner, name in self._elastic()]

    def _elastic(self) -> list[tuple[dict[str, Any], str]]:
        """Where they are."""
        if not self._owners:
            slots = [slot for slot in self.slots if isinstance(slot, TensorSlot) and not self._is_private(slot)]
            self._owners = [(slot.owner, slot.name) for slot in slots]
        return self._owners


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
