"""Batch-norm statistics for any width, measured after training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.model import SlimmableModel
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
    kept by ``Widths`` and saved with the network. Everything else of ``net`` comes back as it was, also after an
    error. A network without batch norm needs none of this: the call does nothing.

    Args:
        net: A converted network, on any device.
        batches: Training inputs, varied as in training: tensors ``(N, ...)``, or tuples of positional
            arguments. Read once, whatever the number of widths; moved to the network's device.
        widths_list: Widths to measure, uniform or per layer.
        method: ``"exact"`` moments, or a ``"moving"`` average with ``momentum`` as during training.
        momentum: Weight of the newest batch in a moving average.

    Raises:
        CalibrationError: ``batches`` is empty or holds more than inputs, an activation is not finite, or the network
            shares its statistics naively.
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
    moments = {widths: [_Moments(_pooled(layer.module)) for layer in net.norm_layers] for widths in wanted}
    with torch.no_grad(), _measuring(net, wanted) as run:
        seen = 0
        for batch in batches:
            arguments = tuple(_moved(part, device) for part in (batch if isinstance(batch, list | tuple) else (batch,)))
            if seen == 0:
                _require_inputs(net, arguments)
            for widths in wanted:
                run(widths, arguments, moments[widths], None if method == "exact" else momentum)
            seen += 1
        if seen == 0:
            raise CalibrationError("calibrate got no batches; it needs one or two thousand training samples")
        for widths in wanted:
            _require_finite(net, widths, moments[widths])
    with torch.no_grad():
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


class _Moments:
    """Mean and variance of one layer's inputs, gathered batch by batch in double precision."""

    def __init__(self, pooled: bool) -> None:
        self.pooled = pooled
        self.values = 0.0
        self.batches = 0
        self.mean = torch.zeros(())
        self.variance = torch.zeros(())

    def add(self, count: float, mean: Tensor, variance: Tensor, momentum: float | None) -> None:
        """Take in a batch: values per channel, mean, unbiased variance."""
        mean, variance = (moment.to(torch.float64, copy=True) for moment in (mean, variance))  # buffers move on
        if momentum is None and self.pooled:
            variance = variance * ((count - 1) / count)
        if self.batches == 0:
            self.mean, self.variance = mean, variance
        elif momentum is not None:
            self.mean = self.mean.lerp(mean, momentum)
            self.variance = self.variance.lerp(variance, momentum)
        else:
            share = count / (self.values + count)
            apart = mean - self.mean
            spread = share * (1 - share) * apart.square() if self.pooled else 0.0
            self.mean = self.mean + share * apart
            self.variance = (1 - share) * self.variance + share * variance + spread
        self.values += count
        self.batches += 1


def _pooled(module: nn.Module) -> bool:
    """Whether a layer's moments are those of all values (batch norm) or averages over samples (instance norm)."""
    return not isinstance(module, nn.modules.instancenorm._InstanceNorm)


@contextmanager
def _measuring(net: SlimmableModel, wanted: Sequence[Widths]) -> Iterator[Callable[..., None]]:
    """Yield a function that runs one batch at one width and gathers its moments.

    Batch norm runs in training mode with a momentum of 1, so that a table's buffers hold the moments of the last batch
    alone. Afterwards all is as it was, but for new, empty tables; after an error, without them.
    """
    modules = [layer.module for layer in net.norm_layers]
    modes = [(module, module.training) for module in net.modules()]
    momenta = [{key: value for key, value in vars(module).items() if key == "momentum"} for module in modules]
    known = {widths: table for widths in net.stored if (table := net.table(widths)) is not None}
    before = {
        widths: {name: buffer.clone() for name, buffer in known[widths].named_buffers()}
        for widths in wanted
        if widths in known
    }
    now: list[Any] = []

    def gather(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
            moments, table, momentum = now
            x, mean = inputs[0], table.value(index, "mean")
            if moments[index].batches == 0 and moments[index].pooled:
                _require_own_mean(net.norm_layers[index].path, x, mean)
            moments[index].add(x.numel() / x.shape[1], mean, table.value(index, "var"), momentum)

        return hook

    def run(widths: Widths, arguments: tuple[Any, ...], moments: list[_Moments], momentum: float | None) -> None:
        now[:] = [moments, net.table(widths), momentum]
        try:
            with net.at(widths):
                net(*arguments)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise CalibrationError("a batch gives batch norm one value per channel; use larger batches") from error

    handles = [module.register_forward_hook(gather(i)) for i, module in enumerate(modules)]
    try:
        net.eval()
        for module in modules:
            module.train()
            vars(module)["momentum"] = 1.0
        for widths in wanted:
            table = known.get(widths) or net.new_table(widths)
            if table.kind == "calibrated":
                net.stamp(table)
        yield run
    except BaseException:
        net.drop_tables(keep=known)
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module, momentum in zip(modules, momenta, strict=True):
            vars(module).pop("momentum", None)
            vars(module).update(momentum)
        for module, mode in modes:
            module.training = mode
        net.tables.train(net.training)
        for widths, buffers in before.items():
            for name, buffer in known[widths].named_buffers():
                buffer.copy_(buffers[name])


def _require_own_mean(path: str, x: Tensor, found: Tensor) -> None:
    """Pass if a layer left the mean of this batch alone in its buffer."""
    mean = x.transpose(0, 1).flatten(1).mean(1)
    if not torch.allclose(found.to(mean.dtype), mean, rtol=1e-2, atol=1e-2 * float(x.std()) + 1e-12, equal_nan=True):
        raise CalibrationError(
            f"layer {path!r} does not follow its attribute 'momentum', by which its statistics are measured; "
            "let its forward pass self.momentum to batch_norm, or use PyTorch's own layer"
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


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
