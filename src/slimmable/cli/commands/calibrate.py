"""``slimmable calibrate``."""

from slimmable.cli.parser import Options
from slimmable.cli.tables import write
from slimmable.errors import CalibrationError
from slimmable.recipes import open_run
from slimmable.recipes.folder import choose_device, save_trained
from slimmable.recipes.run import calibrate_run
from slimmable.recipes.widths import read_widths


def command(options: Options) -> int:
    """Measure statistics at further widths and keep them with the network."""
    device = choose_device(options.device)
    net, task, recipe, _ = open_run(options.run, root=options.root)
    if not net.has_batch_norm:
        raise CalibrationError("this network has no batch norm: every width can be evaluated as it is")
    widths = read_widths(options.widths, net.space)
    calibrate_run(net.to(device), task.to(device), recipe, widths, samples=options.samples)
    save_trained(net, options.run)
    write(f"calibrated {', '.join(named.label for named in widths)}; {len(net.calibrated)} widths can be evaluated")
    return 0
