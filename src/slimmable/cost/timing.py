"""Milliseconds of whole networks at many widths, measured on this device.

A layer timed alone says little of its time inside a network, where caches are shared, so whole networks are timed
[1]. Machines are never quiet: all widths of a block run in turn, round after round, each round beginning with another
one, and what counts is a median. The networks of many widths do not fit into memory together; they are timed block by
block, with the same reference widths in each, and the reference's times bring the blocks to one scale.

References:
    [1] Berman, Pishchulin, Xu, Blaschko, Medioni. AOWS: Adaptive and Optimal Network Width Search with Latency
    Constraints. CVPR 2020.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import CostError
from slimmable.record import Json, environment

Clock = Literal["wall", "cpu"]
Progress = Callable[[Sequence["Timing"]], object]

_BLOCK = 24
_BLOCK_BYTES = 512 * 2**20
_BETWEEN_REFERENCES = 6
_LANES = 8


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one forward pass at some widths takes.

    Attributes:
        widths: Channels by group.
        milliseconds: Median over the rounds, on the scale of the reference widths.
        low: First quartile.
        high: Third quartile.
    """

    widths: Widths
    milliseconds: float
    low: float
    high: float

    def to_json(self) -> dict[str, Json]:
        """A JSON object that :meth:`from_json` reads."""
        return {
            "channels": list(self.widths.channels),
            "milliseconds": self.milliseconds,
            "low": self.low,
            "high": self.high,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], space: WidthSpace) -> Timing:
        """The inverse of :meth:`to_json`, for widths of ``space``.

        Raises:
            WidthError: The channels do not fit the space.
        """
        milliseconds, low, high = (float(value[name]) for name in ("milliseconds", "low", "high"))
        return Timing(widths=space.widths(value["channels"]), milliseconds=milliseconds, low=low, high=high)


def measure_latency(
    net: SlimmableModel,
    widths_list: Sequence[Widths],
    inputs: Tensor | tuple[Tensor, ...],
    *,
    rounds: int = 15,
    warm_up: int = 2,
    threads: int | None = None,
    clock: Clock = "wall",
    anchor: Timing | None = None,
    progress: Progress | None = None,
) -> list[Timing]:
    r"""Milliseconds of a forward pass at every width of a list.

    Every width is extracted as a plain network for inference: batch norm folded into the layer before it, and in the
    memory format ``channels_last`` where inputs are of four axes and all choices of all groups are multiples of 8
    (others are slow in that format). A turn is one pass that brings the network into the caches and one that is timed.

    Networks are timed in blocks of at most 24, and of at most half a GiB of weights. With :math:`t_{wi}` the time of
    width :math:`w` in round :math:`i` and :math:`m_w` its median over the rounds, what a round has in common is taken
    out, for a machine that is warm or busy slows all alike:

    .. math:: t'_{wi} = t_{wi} / \operatorname{median}_w (t_{wi} / m_w)

    The reference widths take part in each block, before every sixth turn, and if :math:`r` and :math:`r_b` are the
    reference's medians in the first block and in block :math:`b`, the times of block :math:`b` are multiplied by
    :math:`r / r_b`.

    What tensors hold does not change how long they take. Batch norm that has no statistics for a width is therefore
    timed with those of a new layer, which are forgotten afterwards.

    Args:
        net: A converted network, on the device that is to be measured.
        widths_list: What to time; the first of them is the reference.
        inputs: What the network is called with.
        rounds: Turns of each width that count.
        warm_up: Turns of each width before those.
        threads: Threads of torch meanwhile; None leaves them as they are.
        clock: ``wall``, or the ``cpu`` time of this thread: with one thread, on a machine with other work.
        anchor: The reference's timing in an earlier call, whose times these are to be comparable to; that of the first
            block if not given.
        progress: Called after each block with all timings so far.

    Returns:
        One timing for each of the widths, in their order.

    Raises:
        CostError: No widths, no rounds, or CPU time of several threads or of a GPU.
        WidthError: Widths that do not belong to the network, or are no switches where batch norm is private to them.

    Cost:
        ``2 (rounds + warm_up)`` forward passes at each width.

    Example:
        >>> import slimmable
        >>> net = slimmable.convert(torch.nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 8)), torch.zeros(1, 8))
        >>> [small, large] = measure_latency(net, [net.space.smallest, net.space.largest], torch.zeros(1, 8), rounds=3)
        >>> small.low <= small.milliseconds <= small.high
        True
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    _require_sensible(widths_list, inputs, rounds=rounds, threads=threads, clock=clock)
    for widths in widths_list:
        net.space.check(widths)
    last = lanes_last(net.space, inputs)
    if last:
        inputs = tuple(tensor.contiguous(memory_format=torch.channels_last) for tensor in inputs)
    reference = anchor.widths if anchor else widths_list[0]
    found: list[Timing] = []
    with _threads(threads), torch.inference_mode():
        while len(found) < len(widths_list):
            # The reference is made anew with every block: where memory lies decides a few percent of the time.
            networks = _block(net, [reference, *widths_list[len(found) :]], last)
            times = _levelled(_interleaved(networks, inputs, rounds=rounds, warm_up=warm_up, clock=clock))
            del networks
            if anchor is None:
                anchor = _timing(reference, times[0], 1.0)
            factor = anchor.milliseconds / statistics.median(times[0])
            timed = widths_list[len(found) : len(found) + len(times) - 1]
            found += [_timing(widths, own, factor) for widths, own in zip(timed, times[1:], strict=True)]
            if progress is not None:
                progress(found)
    return found


def device_record(
    inputs: Tensor | tuple[Tensor, ...], space: WidthSpace, *, threads: int | None = None, clock: Clock = "wall"
) -> dict[str, Json]:
    """Where and how :func:`measure_latency` measures: versions, processor, threads, sizes of the inputs, format.

    >>> from slimmable import WidthSpace
    >>> device_record(torch.zeros(1, 3, 8, 8), WidthSpace((), 0.25, 1.0), threads=1)["inputs"]
    [[1, 3, 8, 8]]
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    device = inputs[0].device
    return environment(
        packages=("torch", "numpy"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=threads or torch.get_num_threads(),
        clock=clock,
        inputs=[list(tensor.shape) for tensor in inputs],
        memory_format="channels_last" if lanes_last(space, inputs) else "contiguous",
    )


def lanes_last(space: WidthSpace, inputs: tuple[Tensor, ...]) -> bool:
    """Whether networks are timed in ``channels_last``: one format for all widths, or their times would not compare."""
    if any(tensor.ndim != 4 for tensor in inputs):
        return False
    return all(choice % _LANES == 0 for group in space.groups for choice in group.choices)


def _require_sensible(
    widths_list: Sequence[Widths], inputs: tuple[Tensor, ...], *, rounds: int, threads: int | None, clock: Clock
) -> None:
    if not widths_list or rounds < 1:
        raise CostError(f"expected widths to time and at least one round, got {len(widths_list)} and {rounds}")
    if clock == "cpu" and ((threads or torch.get_num_threads()) > 1 or inputs[0].is_cuda):
        raise CostError("CPU time is that of one thread on the CPU; use threads=1, or the wall clock")


def _block(net: SlimmableModel, widths_list: Sequence[Widths], last: bool) -> list[nn.Module]:
    """Networks of the first widths of a list, the reference's, and of as many of the next as are timed together."""
    block: list[nn.Module] = []
    size = 0
    for widths in widths_list[: 1 + _BLOCK]:
        plain = _plain(net, widths, last)
        size += sum(tensor.nbytes for tensor in plain.state_dict().values())
        if len(block) > 1 and size > _BLOCK_BYTES:
            break
        block.append(plain)
    return block


def _plain(net: SlimmableModel, widths: Widths, last: bool) -> nn.Module:
    with torch.inference_mode(False), _statistics(net, widths):
        plain = net.extract(widths, fold_batch_norm=True).eval()
        return plain.to(memory_format=torch.channels_last) if last else plain  # pyright: ignore[reportCallIssue]


@contextmanager
def _statistics(net: SlimmableModel, widths: Widths) -> Iterator[None]:
    """Any statistics for batch norm, where it has none."""
    known, stored = net.table(widths), net.stored
    if net.batch_norm == "naive" or not net.has_batch_norm or (net.switches and known is None):
        yield
        return
    table = known or net.new_table(widths)
    before = table.version, table.known
    net.stamp(table)
    table.known = True
    try:
        yield
    finally:
        table.version, table.known = before
        if known is None:
            net.drop_tables(stored)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _interleaved(
    networks: Sequence[nn.Module], inputs: tuple[Tensor, ...], *, rounds: int, warm_up: int, clock: Clock
) -> list[dict[int, list[float]]]:
    """Milliseconds by network, round by round; the first network is the reference and takes more turns than others."""
    read = time.perf_counter_ns if clock == "wall" else time.thread_time_ns
    wait = torch.cuda.synchronize if inputs[0].is_cuda else _nothing
    found: list[dict[int, list[float]]] = []
    others = list(range(1, len(networks)))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for round_ in range(-warm_up, rounds):
            times: dict[int, list[float]] = {}
            first = round_ % len(others)
            for turn, place in enumerate(others[first:] + others[:first]):
                for index in (0, place) if turn % _BETWEEN_REFERENCES == 0 else (place,):
                    network = networks[index]
                    network(*inputs)
                    wait()
                    begin = read()
                    network(*inputs)
                    wait()
                    times.setdefault(index, []).append((read() - begin) / 1e6)
            if round_ >= 0:
                found.append(times)
    finally:
        if collecting:
            gc.enable()
    return found


def _levelled(rounds: Sequence[Mapping[int, Sequence[float]]]) -> list[list[float]]:
    """Times of every network over all rounds, without what the turns of a round have in common."""
    medians = {index: statistics.median(took for times in rounds for took in times[index]) for index in rounds[0]}
    found: list[list[float]] = [[] for _ in medians]
    for times in rounds:
        level = statistics.median(took / medians[index] for index, several in times.items() for took in several)
        for index, several in times.items():
            found[index] += [took / level for took in several]
    return found


def _nothing() -> None:
    """On the CPU a call returns when its work is done."""


def _timing(widths: Widths, times: Sequence[float], factor: float) -> Timing:
    quartiles = statistics.quantiles(times, method="inclusive") if len(times) > 1 else [times[0]] * 3
    low, median, high = (value * factor for value in quartiles)
    return Timing(widths=widths, milliseconds=median, low=low, high=high)
