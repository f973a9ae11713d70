"""``slimmable profile``."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slimmable.cli.main import INTERRUPTED
from slimmable.cli.parser import Options
from slimmable.cli.sizes import input_size
from slimmable.cli.tables import count, write, write_table
from slimmable.core.model import SlimmableModel
from slimmable.cost.analytic import CostModel
from slimmable.errors import RecipeError
from slimmable.recipes.benched import from_bench
from slimmable.recipes.folder import RECIPE, choose_device
from slimmable.recipes.profiling import (
    LATENCY,
    Profile,
    ProfileSettings,
    named_network,
    network_of_run,
    profile,
    uniform_widths,
)
from slimmable.recipes.widths import NamedWidths, read_widths


def command(options: Options) -> int:
    """Time a network at many widths on this device, fit a latency model, and say how well it tells other widths."""
    device = choose_device(options.device)
    net, size, path = _network(options)
    if options.bench:
        model = from_bench(options.bench, net, backend=options.runtime)
        model.save(path)
        write(f"error in cross-validation: {model.error:.2f} % in the mean; margin of searches {model.spread:.2f} %")
        write(f"the model is in {shlex.quote(str(path))}")
        return 0
    settings = ProfileSettings(
        count=0 if options.widths else options.count,
        held_out=options.held_out,
        rounds=options.rounds,
        threads=options.threads,
        batch=options.batch,
        clock=options.clock,
    )
    named = uniform_widths(net.space)
    if options.widths:
        known = {each.widths for each in named}
        named += [each for each in read_widths(options.widths, net.space) if each.widths not in known]
    try:
        with _bar() as progress:
            found = profile(
                net, size, path, settings=settings, named=named, device=device, resume=options.resume, progress=progress
            )
    except KeyboardInterrupt:
        print(f"interrupted; to go on: the same command with --resume (timings are in {path})", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    _show(net, found, named)
    write(f"the model and all timings are in {shlex.quote(str(path))}")
    return 0


def _network(options: Options) -> tuple[SlimmableModel, tuple[int, ...], Path]:
    """The network, the size of its input, and where its latency is written."""
    size = input_size(options.input_size) if options.input_size else None
    ranges = {name: options[name] for name in ("min_ratio", "max_ratio", "divisor") if options[name] is not None}
    if not (Path(options.model) / RECIPE).exists():
        net, own = named_network(options.model, input_size=size, options=ranges)
        return net, own, Path(options.output or LATENCY)
    if ranges:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in ranges)
        raise RecipeError(f"{given}: the run in {options.model} has its own widths; leave it out")
    net, own = network_of_run(options.model)
    return net, size or own, Path(options.output or Path(options.model, LATENCY))


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("timing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _show(net: SlimmableModel, found: Profile, named: list[NamedWidths]) -> None:
    record = found.model.device
    write(
        f"{record['processor'] if record['device'] == 'cpu' else record['device']}, threads: {record['threads']}, "
        f"{record['clock']} time, inputs {record['inputs']}, {record['memory_format']}"
    )
    shown = sorted(named, key=lambda each: found.named[each.label].milliseconds)
    told = found.model([each.widths for each in shown])
    macs = CostModel(net).macs([each.widths for each in shown])
    write_table(
        ["width", "ms", "quartiles", "model", "MACs"],
        [
            [
                each.label,
                f"{found.named[each.label].milliseconds:.3f}",
                f"{found.named[each.label].low:.3f} .. {found.named[each.label].high:.3f}",
                f"{own:.3f}",
                count(int(work)),
            ]
            for each, own, work in zip(shown, told, macs, strict=True)
        ],
    )
    write(
        f"error on {len(found.errors)} held-out widths: {found.model.error:.2f} % in the mean, "
        f"{found.median_error:.2f} % in the median, {found.errors[-1]:.2f} % at most; "
        f"searches keep a margin of {found.model.spread:.2f} %"
    )
