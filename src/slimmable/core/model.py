"""A network that runs at any width."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimmable.core.description import check_description
from slimmable.core.extract import Fold, extract
from slimmable.core.norms import NormLayer, NormTable, blank_tensors, fixed_tensors
from slimmable.core.parts import Dissected, dissected
from slimmable.core.portable import Origin, Portable
from slimmable.core.space import Widths, WidthSpace
from slimmable.core.state import BatchNorm, State
from slimmable.errors import CheckpointError

if TYPE_CHECKING:
    from slimmable.core.analysis import Analysis
    from slimmable.core.groups import Grouping
    from slimmable.core.report import ConversionReport


class SlimmableModel(nn.Module):
    """One set of weights that runs at every width of its space; made by :func:`slimmable.convert`.

    Attributes:
        model: The network, with its own classes and names; its layers follow the active widths.
        space: The widths it may take.
        report: What may vary, and what may not and why.
        analysis: Layouts of the graph's tensors, from which costs are computed.
        grouping: How those layouts are read in the space.
        origin: The conversion or the file that it comes from.

    Example:
        >>> import torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 10, 3))
        >>> net = slimmable.convert(plain, torch.zeros(1, 3, 8, 8))
        >>> with net.at(net.space.uniform(0.5)):
        ...     net.model[0].weight.shape, net(torch.zeros(2, 3, 8, 8)).shape
        (torch.Size([16, 3, 3, 3]), torch.Size([2, 10, 4, 4]))
    """

    def __init__(
        self,
        model: nn.Module,
        state: State,
        *,
        report: ConversionReport,
        analysis: Analysis,
        grouping: Grouping,
        folds: Sequence[Fold],
    ) -> None:
        super().__init__()
        self.model = model
        self.tables = nn.ModuleList()
        self.report = report
        self.analysis = analysis
        self.grouping = grouping
        self.origin: Origin = Portable(reason="it was put together by hand")
        self._state = state
        self._folds = tuple(folds)
        self._to_stamp: list[NormTable] = []
        self.register_load_state_dict_post_hook(SlimmableModel._stamp_loaded)
        self.train(model.training)

    @property
    def space(self) -> WidthSpace:
        """The widths the network may take."""
        return self._state.space

    @property
    def widths(self) -> Widths:
        """The active widths."""
        return self._state.widths

    @property
    def batch_norm(self) -> BatchNorm:
        """How widths share batch norm: ``calibrated``, ``private`` or ``naive``."""
        return self._state.batch_norm

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer keeps running statistics."""
        return bool(self._state.norm_layers)

    @property
    def switches(self) -> tuple[Widths, ...]:
        """The fixed list of widths that the network was converted for; empty where it runs at any width."""
        return self._state.switches

    @property
    def tracked(self) -> tuple[Widths, ...]:
        """Widths whose running statistics are followed during training."""
        return tuple(widths for widths, table in self._state.tables.items() if table.kind != "calibrated")

    @property
    def calibrated(self) -> tuple[Widths, ...]:
        """Widths that can be evaluated now: their statistics are known and belong to the present weights."""
        state, changes = self._state, self._state.changes()
        return tuple(widths for widths, table in state.tables.items() if state.is_current(table, changes))

    def train(self, mode: bool = True) -> SlimmableModel:
        """Set training or evaluation mode, as of any module."""
        self._state.unpack()
        return super().train(mode)

    def set(self, widths: Widths) -> None:
        """Run at ``widths`` from now on.

        Raises:
            WidthError: They do not belong to this network's space.
        """
        self._state.set(widths)

    @contextmanager
    def at(self, widths: Widths) -> Iterator[None]:
        """Run at ``widths`` inside the context; the widths before it come back, also after an error."""
        before = self._state.widths
        self._state.set(widths)
        try:
            yield
        finally:
            self._state.set(before)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output at the active widths.

        Raises:
            CalibrationError: In evaluation, batch norm has no statistics for these widths, or they are stale.
        """
        state = self._state
        if not state.shares_gradients:
            state.refresh()
        if not self.training:
            state.require_current()
        elif torch.is_grad_enabled():
            state.follow()
        if torch.is_grad_enabled():
            state.passes += 1
        return self.model(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> SlimmableModel:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        current = self.calibrated
        for widths, table in copied._state.tables.items():
            table.version = None
            if widths in current or not table.ready:
                copied.stamp(table)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise CheckpointError(
            "a converted network cannot be pickled; use slimmable.save(net, path), or pickle net.extract(widths)"
        )

    def shared_gradients(self) -> AbstractContextManager[Callable[[], None]]:
        """Train several widths on one set of weights without a copy of any (see :mod:`slimmable.core.state`).

        Each use is one step of training: statistics that do not follow it are out of date afterwards. It yields
        ``commit``, to be called after each width's backward pass::

            with net.shared_gradients() as commit:
                for widths in (net.space.largest, net.space.smallest):
                    with net.at(widths):
                        loss(net(images), labels).backward()
                    commit()
        """
        return self._state.share_gradients()

    def extract(self, widths: Widths, *, fold_batch_norm: bool = False) -> nn.Module:
        """The network at ``widths`` as a plain module of its own classes, with nothing of ours in it.

        Args:
            widths: Channels of each group.
            fold_batch_norm: Merge each batch norm into the convolution or linear layer before it, for inference.

        Returns:
            A module in this network's mode (training or evaluation); in evaluation mode where ``fold_batch_norm``.

        Raises:
            WidthError: ``widths`` do not belong to the space.
            CalibrationError: Batch norm has no current statistics for them.
            ExtractionError: The network cannot be copied.
        """
        with self.at(widths):
            return extract(self.model, self._state, self._folds if fold_batch_norm else None)

    def dissect(self, widths_list: Sequence[Widths], *, rounding: torch.dtype | None = None) -> Dissected:
        """The network taken apart for an artifact: its sub-networks, and how their tensors come from its own.

        Args:
            widths_list: Which sub-networks; batch norm is folded into the layers before it.
            rounding: The type to which folded gains and shifts are rounded; that of the weights if None.

        Raises:
            WidthError: Some of the widths do not belong to the space.
            CalibrationError: Batch norm has no current statistics for some of them.
        """
        return dissected(self.model, self._state, self._folds, widths_list, rounding=rounding)

    @property
    def stored(self) -> tuple[Widths, ...]:
        """Widths that have a batch-norm table, current or not."""
        return tuple(self._state.tables)

    def new_table(self, widths: Widths) -> NormTable:
        """An empty table of kind ``calibrated`` for ``widths``, in use from now on."""
        state = self._state
        like = next(buffer for buffer in self.tables.buffers() if buffer.is_floating_point())
        table = NormTable(widths, "calibrated", blank_tensors(state.norm_layers, widths, like, affine=False))
        self.put_table(table)
        return table

    def put_table(self, table: NormTable) -> None:
        """Use ``table`` for its widths from now on."""
        state = self._state
        state.tables[table.widths] = table
        self.tables = nn.ModuleList(state.tables.values()).train(self.training)
        state.drop(table.widths)

    def drop_tables(self, keep: Collection[Widths]) -> None:
        """Forget all batch-norm tables but those of some widths."""
        state = self._state
        for widths in [widths for widths in state.tables if widths not in keep]:
            del state.tables[widths]
        self.tables = nn.ModuleList(state.tables.values()).train(self.training)
        state.drop()

    def stamp(self, table: NormTable) -> None:
        """Note that ``table`` belongs to the present weights."""
        self._state.stamp(table)

    @property
    def norm_layers(self) -> tuple[NormLayer, ...]:
        """Layers that keep running statistics."""
        return self._state.norm_layers

    def table(self, widths: Widths) -> NormTable | None:
        """The batch-norm table of ``widths``, if there is one."""
        return self._state.tables.get(widths)

    def get_extra_state(self) -> str:
        """The space and the batch-norm tables, as JSON, for ``state_dict``."""
        current = self.calibrated
        tables = [table.describe(current=widths in current) for widths, table in self._state.tables.items()]
        return json.dumps({"space": self.space.to_json(), "batch_norm": self.batch_norm, "tables": tables})

    def set_extra_state(self, state: str) -> None:
        """Make the batch-norm tables that ``state_dict`` is about to fill.

        Raises:
            CheckpointError: The state belongs to a network of another space.
        """
        found = json.loads(state)
        check_description(self.space, self.batch_norm, found)
        own = self._state
        like = next((buffer for table in own.tables.values() for buffer in table.buffers()), torch.zeros(()))
        before, tables = own.tables, dict[Widths, NormTable]()
        for entry in found["tables"]:
            widths, kind, ready = self.space.widths(entry["widths"]), entry["kind"], entry["ready"]
            table = before.get(widths)
            if table is None or table.kind != kind:
                tensors = blank_tensors(own.norm_layers, widths, like, affine=kind == "private")
                table = NormTable(widths, kind, tensors, fixed=fixed_tensors(own.norm_layers))
            table.known, table.version = ready, None
            if ready:
                self._to_stamp.append(table)
            tables[widths] = table
        own.tables = tables
        self.tables = nn.ModuleList(tables.values()).train(self.training)
        own.drop()

    def _stamp_loaded(self, keys: Any) -> None:
        """Settle what was loaded; batch norm invents counts where a plain dictionary does not tell its version."""
        counts = tuple(f"model.{layer.path}.num_batches_tracked" for layer in self.norm_layers)
        keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith(counts)]
        for table in self._state.tables.values():
            if not table.ready or any(table is each for each in self._to_stamp):
                self.stamp(table)
        self._to_stamp.clear()
        self._state.drop()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlimmableModel:
        super()._apply(fn, recurse)
        self._state.drop()
        return self
