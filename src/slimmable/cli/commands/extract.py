"""``slimmable extract``."""

from pathlib import Path

from slimmable.cli.parser import Options
from slimmable.cli.tables import count, memory, write
from slimmable.errors import WidthError
from slimmable.recipes import open_run, write_subnetwork
from slimmable.recipes.widths import read_widths


def command(options: Options) -> int:
    """Write one sub-network as a plain model, and check the file."""
    opened = open_run(options.run)
    widths = read_widths(options.width, opened.net.space)
    if len(widths) != 1:
        raise WidthError(f"--width {options.width} names {len(widths)} widths; expected one")
    path = Path(options.output)
    manifest = write_subnetwork(opened, widths[0], path, fold_batch_norm=options.fold_batch_norm)
    write(
        f"{path}: width {manifest['width']}, {count(manifest['macs'])} MACs, {manifest['parameters']:,} parameters, "
        f"{memory(path.stat().st_size)}; read back, it gives the same output"
    )
    return 0
