"""``slimmable inspect``."""

import time
from collections.abc import Iterator

import torch

from slimmable.cli import coverage
from slimmable.cli.parser import Options
from slimmable.cli.sizes import input_size
from slimmable.cli.tables import count, memory, write, write_table
from slimmable.core.convert import convert
from slimmable.core.model import SlimmableModel
from slimmable.core.report import ConversionReport, summarise
from slimmable.cost.analytic import CostModel
from slimmable.errors import RecipeError
from slimmable.models import build_model
from slimmable.record import atomic_write_json

_LISTED = 3


def command(options: Options) -> int:
    """Convert a network, or with ``--all`` many, and say what was found."""
    if options.all:
        return coverage.command(options)
    _require_one(options)
    built = build_model(options.model)
    size = input_size(options.input_size) if options.input_size else built.input_size
    began = time.perf_counter()
    net = convert(
        built.model.eval(),
        torch.randn(2, *size),
        min_ratio=options.min_ratio,
        max_ratio=options.max_ratio,
        divisor=options.divisor,
        exclude=options.exclude.split(",") if options.exclude else (),
    )
    seconds = time.perf_counter() - began
    costs = _costs(net)
    _show(options.model, size, net, costs, seconds)
    if options.json:
        found = {"model": options.model, "input_size": size, "seconds": seconds, "costs": costs}
        atomic_write_json(options.json, found | net.report.to_json())
    return 0


def _require_one(options: Options) -> None:
    if not options.model:
        raise RecipeError("inspect takes the name of a MODEL, or --all for a table of many")
    for name in ("match", "output", "resume"):
        if options[name]:
            raise RecipeError(f"--{name} goes with --all; {options.model} is one network")


def _costs(net: SlimmableModel) -> dict[str, dict[str, int]]:
    named = {"smallest": net.space.smallest, "given": net.space.base, "largest": net.space.largest}
    model, widths = CostModel(net), list(named.values())
    costs = (model.macs(widths), model.parameters(widths), model.activation_bytes(widths))
    return {
        name: {"macs": int(macs), "parameters": int(parameters), "activation_bytes": int(activations)}
        for name, macs, parameters, activations in zip(named, *costs, strict=True)
    }


def _show(
    name: str, size: tuple[int, ...], net: SlimmableModel, costs: dict[str, dict[str, int]], seconds: float
) -> None:
    report = net.report
    write(
        f"{name}, input {'x'.join(map(str, size))}: {len(report.elastic)} of {len(report.layers)} layers are elastic, "
        f"in {len(report.groups)} groups; converted in {seconds:.1f} s"
    )
    if report.groups:
        write_table(
            ["group", "layers", "from", "to", "step"],
            [
                [group.name, _few(group.producers), str(group.minimum), str(group.maximum), str(group.divisor)]
                for group in report.groups
            ],
            left=2,
        )
    if report.pinned:
        write("fixed:\n" + "\n".join(_fixed(report)))
    if report.unreached:
        write(f"not reached by the example: {', '.join(report.unreached)}")
    write_table(
        ["width", "MACs", "parameters", "activations"],
        [
            [width, count(cost["macs"]), f"{cost['parameters']:,}", memory(cost["activation_bytes"])]
            for width, cost in costs.items()
            if width != "given" or costs["given"] != costs["largest"]
        ],
    )


def _fixed(report: ConversionReport) -> Iterator[str]:
    """Fixed layers; many of one reason share a line (``--json`` has each of them)."""
    for alike in summarise(report.pinned):
        if len(alike.pins) > _LISTED:
            yield f"  {alike}: {_few(alike.layers)}"
        else:
            yield from (f"  {pin}" for pin in alike.pins)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
