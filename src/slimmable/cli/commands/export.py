"""``slimmable export``."""

from pathlib import Path

from slimmable.cli.parser import Options
from slimmable.cli.tables import count, memory, write
from slimmable.errors import WidthError
from slimmable.recipes import open_run
from slimmable.recipes.exporting import export_alone, export_run
from slimmable.recipes.widths import read_widths
from slimmable.runtime.backends import backends_from


def command(options: Options) -> int:
    """Write the artifact of a run, or an ordinary file of one of its widths."""
    opened = open_run(options.run, root=options.root)
    widths = read_widths(options.widths, opened.net.space)
    path = Path(options.output)
    if options.standalone:
        if len(widths) != 1:
            raise WidthError(f"--widths {options.widths} names {len(widths)} widths; a standalone file holds one")
        files = export_alone(opened, widths[0], path, format=options.standalone)
        for file in files:
            write(f"{file}: width {widths[0].label}, {memory(file.stat().st_size)}")
        return 0
    found = export_run(
        opened,
        options.run,
        widths,
        path,
        backends=backends_from(options.runtime),
        tables=options.tables,
        store=options.store,
        samples=options.samples,
        latencies=options.bench,
    )
    for each in found.widths:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in each.accuracy.items())
        write(f"  {each.name}: {count(int(each.costs['macs'].value))} MACs{', ' if figures else ''}{figures}")
    write(f"{path}: {len(found.widths)} widths for {', '.join(found.backends)}, {memory(path.stat().st_size)}")
    return 0
