"""``slimmable eval``."""

from pathlib import Path

from slimmable.cli.parser import Options
from slimmable.cli.tables import write_figures
from slimmable.recipes import open_run
from slimmable.recipes.figures import measure, require_calibrated, save_csv, save_json, uncalibrated
from slimmable.recipes.folder import choose_device
from slimmable.recipes.found import known_widths
from slimmable.recipes.run import calibrate_run
from slimmable.recipes.watching import watched
from slimmable.recipes.widths import read_widths


def command(options: Options) -> int:
    """Show accuracy and costs at a list of widths, on the test data."""
    device = choose_device(options.device)
    net, task, recipe, _ = open_run(options.run, root=options.root)
    net, task = net.to(device), task.to(device)
    if options.widths:
        widths = read_widths(options.widths, net.space)
    else:
        widths = tuple(known_widths(Path(options.run), recipe, net))
    missing = uncalibrated(net, widths)
    if missing and options.calibrate:
        calibrate_run(net, task, recipe, missing)
    require_calibrated(net, widths)
    rows = measure(net, task, widths, batches=watched(task.test_batches(), "evaluating", progress=True))
    if options.json:
        save_json(rows, options.json)
    if options.csv:
        save_csv(rows, options.csv)
    write_figures(rows)
    return 0
