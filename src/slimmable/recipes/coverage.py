"""What conversion makes of a network by name: how much of it varies, what it costs, and whether its laws hold.

The laws, at the narrowest and at random widths: full width is the original bit for bit, the network runs, the extracted
network gives the same output, and costs in closed form equal those counted on the extracted network by PyTorch.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimmable.core.convert import convert
from slimmable.core.model import SlimmableModel
from slimmable.core.prove import run, tensors
from slimmable.core.report import summarise, without_numbers
from slimmable.core.space import Widths
from slimmable.cost.analytic import CostModel
from slimmable.measure.calibration import calibrate
from slimmable.models import build_model
from slimmable.models.zoo import InputSize
from slimmable.train.randomness import seeded

BATCH = 2
RANDOM_WIDTHS = 5
ROUNDING = 1e-5
"""Relative difference up to which two outputs are the same: operators on weights may round strided ones otherwise."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was found of one network.

    Attributes:
        input_size: Of one input, for which MACs are given.
        layers: Convolution, linear and embedding layers that the network runs.
        elastic: Those of them with an input or output that varies.
        groups: Width groups.
        macs: Multiply-accumulates of one input at the smallest and at the largest widths.
        uncounted: Layers whose multiply-accumulates are not among them, as their operator is not known.
        parameters: The same of parameters.
        seconds: Time of the conversion: of the clock, or of the processor where others kept it busy meanwhile.
        fixed: Why layers keep their width, the most frequent reason first; that of the output is left out.
        deviation: Largest difference between the elastic network and an extracted one, relative to the largest output;
            0 is bit for bit.
    """

    input_size: InputSize
    layers: int
    elastic: int
    groups: int
    macs: tuple[int, int]
    uncounted: int
    parameters: tuple[int, int]
    seconds: float
    fixed: tuple[str, ...]
    deviation: float


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """A network of the table.

    Attributes:
        family: Whose kind it is.
        model: Its name, as :func:`~slimmable.models.build_model` takes it.
        found: What was found; None where conversion failed.
        faults: What failed: an error, or laws that do not hold.
    """

    family: str
    model: str
    found: Coverage | None = None
    faults: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Any) -> CoverageRow:
        """The inverse of what :func:`slimmable.record.jsonable` makes of a row.

        Raises:
            KeyError, TypeError, ValueError: The value has another form.
        """
        found = value["found"]
        if found is not None:
            listed = ("input_size", "macs", "parameters", "fixed")
            found = Coverage(**{**found, **{name: tuple(found[name]) for name in listed}})
        return cls(family=value["family"], model=value["model"], found=found, faults=tuple(value["faults"]))


def cover(
    family: str, model: str, *, input_size: InputSize | None = None, options: Mapping[str, Any] | None = None
) -> CoverageRow:
    """The row of one network. Whatever goes wrong is in its ``faults``; nothing is raised but interruptions.

    Networks have untrained weights, drawn from a fixed seed. Parameters that start as constants (the zero gain of a
    residual branch, the scale of a transformer's layer) get some noise, without which whole branches would add nothing
    to the output and no law could fail there.

    Args:
        family: Its family in the table.
        model: What to build, as :func:`~slimmable.models.build_model` takes it.
        input_size: Size of one input; None is the network's own.
        options: Keywords for :func:`~slimmable.convert`.

    >>> row = cover("our own", "digits_cnn")
    >>> row.found.elastic, row.found.layers, row.faults
    (8, 8, ())
    """
    faults: list[str] = []
    found = None
    with seeded(0, device=torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's networks, which the user of a table cannot mend
        try:
            built = build_model(model)
            plain = rouse(built.model.eval())
            size = input_size or built.input_size
            inputs = torch.randn(BATCH, *size)
            began = _clocks()
            net = convert(plain, inputs, **(options or {}))
            seconds = min(end - begin for begin, end in zip(began, _clocks(), strict=True))
            laws = Laws(plain, net, inputs)
            faults += laws.faults()
            found = _coverage(net, size, seconds, laws.deviation)
        except Exception as error:
            faults.append(described(error))
    gc.collect()  # graphs refer to themselves: their tensors would stay until memory is short
    return CoverageRow(family=family, model=model, found=found, faults=tuple(faults))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _coverage(net: SlimmableModel, size: InputSize, seconds: float, deviation: float) -> Coverage:
    ends = [net.space.smallest, net.space.largest]
    costs, report = CostModel(net), net.report
    least_macs, most_macs = map(int, costs.macs(ends))
    least_parameters, most_parameters = map(int, costs.parameters(ends))
    inner = [pin for pin in report.pinned if pin.operator != "output"]
    return Coverage(
        input_size=tuple(size),
        layers=len(report.layers),
        elastic=len(report.elastic),
        groups=len(report.groups),
        macs=(least_macs, most_macs),
        uncounted=len(report.uncounted),
        parameters=(least_parameters, most_parameters),
        seconds=seconds,
        fixed=tuple(map(str, summarise(inner))),
        deviation=deviation,
    )


def rouse(model: nn.Module) -> nn.Module:
    """``model`` itself, with noise on every parameter that is constant and statistics as data would leave them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and torch.equal(parameter, parameter.flatten()[0].expand_as(parameter)):
                parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


class Laws:
    """The laws of a conversion, tried at the narrowest and at random widths.

    Args:
        plain: The network as it was, in evaluation mode.
        net: The same, converted.
        inputs: A batch of its inputs.

    Attributes:
        expected: The original's output.
        deviation: Largest relative difference met between the elastic and an extracted network.
    """

    def __init__(self, plain: nn.Module, net: SlimmableModel, inputs: Tensor) -> None:
        self.net = net
        self.inputs = inputs
        self.costs = CostModel(net)
        self.expected = run(plain, (inputs,))
        self.deviation = 0.0

    def faults(self) -> list[str]:
        """What does not hold, in words; nothing if all does."""
        space, generator = self.net.space, Random(0)
        found = list(self._at_full_width())
        alike: dict[str, list[str]] = {}
        drawn = dict.fromkeys([space.smallest, *(space.random(generator) for _ in range(RANDOM_WIDTHS))])
        for place, widths in enumerate(drawn if len(space) else ()):
            where = f"at random widths {place}" if place else "at the narrowest width"
            for fault in self._caught(widths):
                alike.setdefault(without_numbers(fault), []).append(f"{where}: {fault}")
        for first, *more in alike.values():
            found.append(first + (f", and the like at {len(more)} others" if more else ""))
        return found

    def _at_full_width(self) -> Iterator[str]:
        with self.net.at(self.net.space.base):
            found = run(self.net, (self.inputs,))
        if not all(bool(output.isfinite().all()) for output in tensors(self.expected)):
            yield "the original's output is not finite, so that nothing can be told from it"
        elif difference(found, self.expected) > 0:
            yield "full width differs from the original"

    def _caught(self, widths: Widths) -> Iterator[str]:
        try:
            yield from self._at(widths)
        except Exception as error:
            yield described(error)

    def _at(self, widths: Widths) -> Iterator[str]:
        calibrate(self.net, [self.inputs], [widths])
        extracted = self.net.extract(widths)
        with self.net.at(widths):
            outputs = run(self.net, (self.inputs,))
        deviation = difference(outputs, run(extracted, (self.inputs,)))
        self.deviation = max(self.deviation, deviation)
        if widths == self.net.space.smallest and difference(outputs, self.expected) == 0:
            yield "the output is that of full width, so that nothing can be told from it"
        if not deviation <= ROUNDING:
            yield f"the extracted network differs by {deviation:.1e} of the largest output"
        macs, parameters = int(self.costs.macs([widths])[0]), int(self.costs.parameters([widths])[0])
        own = sum(parameter.numel() for parameter in extracted.parameters())
        if parameters != own:
            yield f"{parameters:,} parameters by the formula, {own:,} in the extracted network"
        counted = counted_macs(extracted, self.inputs.shape[1:])
        if macs > counted or (macs < counted and not self.net.report.uncounted):
            yield f"{macs:,} MACs by the formula, {counted:,} counted on the extracted network"


def difference(one: Any, other: Any) -> float:
    """Largest difference of two outputs, relative to the largest value; 0 if they are the same bit for bit.

    Infinite where their shapes differ or one of them is not finite.

    >>> difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 5.0])])
    0.2
    """
    ours, theirs = list(tensors(one)), list(tensors(other))
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return inf
    return max((_difference(*pair) for pair in zip(ours, theirs, strict=True)), default=inf)


def _difference(one: Tensor, other: Tensor) -> float:
    if not bool(one.isfinite().all()) or not bool(other.isfinite().all()):
        return inf
    if torch.equal(one, other):
        return 0.0
    gap = float((one.double() - other.double()).abs().max())
    return gap / float(other.double().abs().max().clamp_min(1e-12))


def counted_macs(plain: nn.Module, size: Sequence[int]) -> int:
    """MACs of one input by PyTorch's own counter, which counts two FLOPs for each; ``plain`` is left without data."""
    plain.to("meta").requires_grad_(False)  # the counter cannot follow a parameter that is an argument of a module
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


def described(error: Exception) -> str:
    r"""An error on one line.

    >>> described(ValueError("two\n  lines"))
    'ValueError: two lines'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
