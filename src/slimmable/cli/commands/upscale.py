"""``slimmable upscale``."""

from slimmable.cli.parser import Options
from slimmable.cli.tables import write
from slimmable.errors import WidthError
from slimmable.recipes import open_run
from slimmable.recipes.folder import choose_device
from slimmable.recipes.upscaling import upscale_files
from slimmable.recipes.widths import read_widths


def command(options: Options) -> int:
    """Make images larger with the network of a run, at one width."""
    device = choose_device(options.device)
    opened = open_run(options.run)
    opened = opened._replace(net=opened.net.to(device), task=opened.task.to(device))
    widths = read_widths(options.width, opened.net.space)
    if len(widths) != 1:
        raise WidthError(f"--width {options.width} names {len(widths)} widths; expected one")
    for found in upscale_files(opened, options.images, options.output, width=widths[0], tile=options.tile):
        wide, high = found.size
        write(f"{found.path}: {wide}x{high} pixels, {found.seconds:.2f} s")
    return 0
