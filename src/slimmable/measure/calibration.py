"""Batch-norm statistics for any width, measured after training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slimmable.core.model import SlimmableModel
from slimmable.core.norms import NormTable
from slimmable.core.space import Widths
from slimmable.errors import CalibrationError, WidthError

Inputs = Tensor | Sequence[Any]


def calibrate(
    net: SlimmableModel,
    batches: Iterable[Inputs],
    widths_list: Sequence[Widths],
    *,
    method: Literal["exact", "moving"] = "exact",
    momentum: float = 0.1,
) -> None:
    r"""Measure the batch-norm statistics of ``net`` at every width of a list, so that it can be evaluated there.

    A slimmed layer meets other inputs at every width, so the running averages left by training fit none of them and
    accuracy falls to chance. One pass over one or two thousand training samples mends it [1]. For batch :math:`b`
    with :math:`n_b` values per channel, mean :math:`m_b` and biased variance :math:`v_b`,

    .. math:: \mu = \tfrac1n \sum_b n_b m_b, \qquad \sigma^2 = \tfrac1n \sum_b n_b (v_b + (m_b - \mu)^2),

    the exact moments of all activations at once, whatever the batch sizes. (Each batch is normalised by its own
    moments on its way through the network, as in training; shuffled batches of 64 or more are best.) Statistics are
    kept by ``Widths`` and saved with the network. Everything else of ``net`` comes back as it was; after an error or
    an interrupt all of it, so that statistics that were out of date still are. A network without batch norm needs none
    of this: the call does nothing.

    Args:
        net: A converted network, on any device.
        batches: Training inputs, varied as in training: tensors ``(N, ...)``, or tuples of positional
            arguments. Read once, whatever the number of widths; moved to the network's device.
        widths_list: Widths to measure, uniform or per layer.
        method: ``"exact"`` moments, or a ``"moving"`` average with ``momentum`` as during training.
        momentum: Weight of the newest batch in a moving average.

    Raises:
        CalibrationError: ``batches`` or one of them is empty, or holds more than inputs; an activation is not finite;
            a layer gives other tensors than its buffers to ``batch_norm``; or the network shares its statistics
            naively.
        WidthError: A width does not belong to the space, or is no switch of a network that has switches.

    Cost:
        One forward pass per batch and width, no gradients.

    References:
        [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, Eq. 8 and Table 3.

    Example:
        >>> import torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 2, 3))
        >>> net = slimmable.convert(plain, torch.zeros(1, 1, 8, 8)).eval()
        >>> half = net.space.uniform(0.5)
        >>> slimmable.calibrate(net, [torch.rand(64, 1, 8, 8)], [half])
        >>> with net.at(half):
        ...     net(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 2, 4, 4])
    """
    if isinstance(widths_list, Widths):
        raise CalibrationError("calibrate takes a list of widths; put these into one: [widths]")
    if isinstance(batches, Tensor):
        raise CalibrationError("calibrate takes batches of inputs; put the one tensor into a list: [images]")
    wanted = list(dict.fromkeys(widths_list))
    for widths in wanted:
        net.space.check(widths)
        if net.batch_norm == "private" and net.has_batch_norm and widths not in net.switches:
            raise WidthError(f"{widths} is not a switch of this network; convert without switches to run at any width")
    if not net.has_batch_norm or not wanted:
        return
    if net.batch_norm == "naive":
        raise CalibrationError(
            "this network shares one set of statistics among all widths (batch_norm='naive'); convert it without"
        )
    device = next(net.parameters()).device
    moments = {widths: [_Moments() for _ in net.norm_layers] for widths in wanted}
    with torch.inference_mode(False), torch.no_grad():
        with _measuring(net, wanted) as run:
            seen = 0
            for batch in batches:
                parts = batch if isinstance(batch, list | tuple) else (batch,)
                arguments = tuple(_moved(part, device) for part in parts)
                if seen == 0:
                    _require_inputs(net, arguments)
                _require_samples(arguments, seen)
                for widths in wanted:
                    run(widths, arguments, moments[widths], None if method == "exact" else momentum)
                seen += 1
            if seen == 0:
                raise CalibrationError("calibrate got no batches; it needs one or two thousand training samples")
            for widths in wanted:
                _require_finite(net, widths, moments[widths])
        for widths in wanted:
            _store(net, widths, moments[widths])


def _require_inputs(net: SlimmableModel, arguments: tuple[Any, ...]) -> None:
    try:
        inspect.signature(net.model.forward).bind(*arguments)
    except TypeError as error:
        raise CalibrationError(
            f"a batch holds {len(arguments)} values, which the network's forward does not take ({error}); "
            "give inputs alone, such as (images for images, labels in loader)"
        ) from error


def _require_samples(arguments: tuple[Any, ...], place: int) -> None:
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.shape[:1] == (0,):
            raise CalibrationError(
                f"batch {place} is empty: an input has shape {tuple(argument.shape)}; expected one sample at least in "
                "every batch, so leave empty ones out"
            )


class _Moments:
    """Mean and variance of one layer's inputs, gathered batch by batch in double precision."""

    def __init__(self) -> None:
        self.values = 0.0
        self.batches = 0
        self.mean = torch.zeros(())
        self.variance = torch.zeros(())

    def add(self, count: float, mean: Tensor, variance: Tensor, *, pooled: bool, momentum: float | None) -> None:
        """Take in a batch.

        Args:
            count: Values per channel.
            mean: Their mean.
            variance: Their unbiased variance.
            pooled: Whether these are moments of all values (batch norm), or averages over samples (instance norm).
            momentum: Weight of this batch in a moving average; None for exact moments.
        """
        mean, variance = (moment.to(torch.float64, copy=True) for moment in (mean, variance))  # buffers move on
        if momentum is None and pooled:
            variance = variance * ((count - 1) / count)
        if self.batches == 0:
            self.mean, self.variance = mean, variance
        elif momentum is not None:
            self.mean = self.mean.lerp(mean, momentum)
            self.variance = self.variance.lerp(variance, momentum)
        else:
            share = count / (self.values + count)
            apart = mean - self.mean
            spread = share * (1 - share) * apart.square() if pooled else 0.0
            self.mean = self.mean + share * apart
            self.variance = (1 - share) * self.variance + share * variance + spread
        self.values += count
        self.batches += 1


_FUNCTION = ("input", "running_mean", "running_var", "weight", "bias")
_OPERATOR = ("input", "weight", "bias", "running_mean", "running_var")
_BATCH, _INSTANCE = ("training", "momentum", "eps"), ("use_input_stats", "momentum", "eps")
_NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: (*_FUNCTION, *_BATCH),
    F.instance_norm: (*_FUNCTION, *_INSTANCE),
    torch.batch_norm: (*_OPERATOR, *_BATCH, "cudnn_enabled"),
    torch.instance_norm: (*_OPERATOR, *_INSTANCE, "cudnn_enabled"),
    torch.ops.aten.batch_norm: (*_OPERATOR, *_BATCH, "cudnn_enabled"),
    torch.ops.aten.batch_norm.default: (*_OPERATOR, *_BATCH, "cudnn_enabled"),
    torch.ops.aten.instance_norm: (*_OPERATOR, *_INSTANCE, "cudnn_enabled"),
    torch.ops.aten.instance_norm.default: (*_OPERATOR, *_INSTANCE, "cudnn_enabled"),
}
"""Every way to call a normalisation that keeps statistics, with the names of its arguments in their order."""


class _Watch(TorchFunctionMode):
    """A context in which the network's normalisations use, and leave in their buffers, the moments of their input.

    Whichever module calls one, and whatever mode or momentum that module has, they run as in training and with a
    momentum of 1: a table's buffers then hold the moments of the last batch alone.

    Attributes:
        strangers: Whether a normalisation was given other statistics than the table's, or another function got these.
    """

    def __init__(self, table: NormTable, moments: Sequence[_Moments], momentum: float | None) -> None:
        super().__init__()
        self.strangers = False
        self._moments = moments
        self._momentum = momentum
        self._layers = {id(table.value(index, "mean")): index for index in range(len(moments))}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; moments are gathered on the way."""
        names = _NORMS.get(func)
        if names is None:
            self.strangers |= any(id(each) in self._layers for each in args)
            return func(*args, **(kwargs or {}))
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        mean, x = given.get("running_mean"), given["input"]
        index = self._layers.get(id(mean))
        self.strangers |= index is None and mean is not None
        if mean is None or index is None or x.numel() == 0:
            return func(*args, **(kwargs or {}))
        flag = "training" if "training" in names else "use_input_stats"
        output = func(**(given | {flag: True, "momentum": 1.0}))
        count, pooled = x.numel() / x.shape[1], flag == "training"
        self._moments[index].add(count, mean, given["running_var"], pooled=pooled, momentum=self._momentum)
        return output


@contextmanager
def _measuring(net: SlimmableModel, wanted: Sequence[Widths]) -> Iterator[Callable[..., None]]:
    """Yield a function that runs one batch at one width and gathers its moments.

    Afterwards all is as it was, but for new, empty tables; after an error, without them.
    """
    modes = [(module, module.training) for module in net.modules()]
    known = {widths: table for widths in net.stored if (table := net.table(widths)) is not None}
    tables = [known[widths] for widths in wanted if widths in known]
    before = [(table, table.version, table.known) for table in tables]
    values = [(buffer, buffer.clone()) for table in tables for buffer in table.buffers()]

    def run(widths: Widths, arguments: tuple[Any, ...], moments: list[_Moments], momentum: float | None) -> None:
        table = net.table(widths)
        assert table is not None
        watch = _Watch(table, moments, momentum)
        try:
            with net.at(widths), watch:
                net(*arguments)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise CalibrationError("a batch gives batch norm one value per channel; use larger batches") from error
        if watch.strangers:
            _require_all(net, moments)

    try:
        net.eval()
        for widths in wanted:
            table = known.get(widths) or net.new_table(widths)
            net.stamp(table)
            table.known = True
        yield run
    except BaseException:
        net.drop_tables(keep=known)
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        net.tables.train(net.training)
        for table, version, ready in before:
            table.version, table.known = version, ready
        for buffer, value in values:
            buffer.copy_(value)


def _require_all(net: SlimmableModel, moments: Sequence[_Moments]) -> None:
    """Pass if all layers were measured: something else was done with their buffers, or they are none of these."""
    for layer, found in zip(net.norm_layers, moments, strict=True):
        if found.batches == 0:
            raise CalibrationError(
                f"layer {layer.path!r} does not give its buffers {layer.mean!r} and {layer.variance!r} to batch_norm, "
                "and nothing else tells its statistics; pass them as they are, or use PyTorch's own layer"
            )


def _require_finite(net: SlimmableModel, widths: Widths, moments: Sequence[_Moments]) -> None:
    for layer, found in zip(net.norm_layers, moments, strict=True):
        if not (torch.isfinite(found.mean).all() and torch.isfinite(found.variance).all()):
            raise CalibrationError(
                f"layer {layer.path!r} met NaN or an infinity at {widths}; "
                "check the data and the weights for values that are not finite"
            )


def _store(net: SlimmableModel, widths: Widths, moments: Sequence[_Moments]) -> None:
    table = net.table(widths)
    assert table is not None
    buffers = dict(table.named_buffers())
    for i, found in enumerate(moments):
        if found.batches == 0:  # an auxiliary head, which evaluation does not run
            continue
        buffers[f"mean_{i}"].copy_(found.mean)
        buffers[f"var_{i}"].copy_(found.variance)
        buffers[f"count_{i}"].fill_(found.batches)
    net.stamp(table)
    table.known = True


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
