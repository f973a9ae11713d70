"""``slimmable search``."""

from pathlib import Path

from slimmable.cli.parser import Options
from slimmable.cli.tables import write, write_figures
from slimmable.recipes import open_run
from slimmable.recipes.budgets import read_budget
from slimmable.recipes.folder import choose_device
from slimmable.recipes.profiling import LATENCY
from slimmable.recipes.searching import SearchSettings, save_found, search


def command(options: Options) -> int:
    """Find the best widths of a trained network within budgets, and show what they are worth on the test data."""
    device = choose_device(options.device)
    opened = open_run(options.run, root=options.root)
    opened = opened._replace(net=opened.net.to(device), task=opened.task.to(device))
    latency = options.latency or Path(options.run, LATENCY)
    budgets = [read_budget(text, opened.net, latency=latency) for text in options.budget]
    settings = SearchSettings(
        method=options.method,
        trials=options.trials,
        samples=options.samples,
        seed=options.seed,
        progress=True,
    )
    found = search(opened, Path(options.run), {"best": budgets}, settings)
    path = Path(options.json or Path(options.run, f"search-{options.method}.json"))
    save_found(found, path, {**settings.to_json(), "budgets": list(options.budget)})
    write_figures(found.figures)
    costs = ", ".join(f"{name} {value:.6g}" for name, value in found.points["best"].costs.items())
    write(f"held-out loss {found.points['best'].loss:.4f}, {costs}; {found.evaluations} widths were evaluated")
    write(f"widths and figures are in {path}")
    return 0
