"""``slimmable platforms``."""

from pathlib import Path

from slimmable.cli.parser import Options
from slimmable.cli.tables import write, write_table
from slimmable.recipes import open_run
from slimmable.recipes.budgets import read_amount, read_cost
from slimmable.recipes.folder import choose_device
from slimmable.recipes.platform_file import read_platforms
from slimmable.recipes.profiling import LATENCY
from slimmable.recipes.searching import SearchSettings, save_found, search
from slimmable.search import Budget, weighted_average


def command(options: Options) -> int:
    """Find the widths of one network for each of several platforms; show accuracies and their weighted average."""
    file = read_platforms(options.file)
    device = choose_device(options.device)
    opened = open_run(file.run, root=options.root)
    opened = opened._replace(net=opened.net.to(device), task=opened.task.to(device))
    cost = read_cost(file.cost, opened.net, latency=file.latency or Path(file.run, LATENCY))
    budgets = {
        platform.name: [Budget(cost=cost, most=read_amount(platform.budget, cost.unit))] for platform in file.platforms
    }
    file.require_order([budget.most for [budget] in budgets.values()])
    settings = SearchSettings(method=file.method, trials=file.trials, progress=True)
    found = search(opened, Path(file.run), budgets, settings)
    metric = opened.task.metric
    values = [row.figures[metric] for row in found.figures]
    average = weighted_average(values, file.weights)
    rows: list[list[str]] = []
    for (name, [budget]), weight, value in zip(budgets.items(), file.weights, values, strict=True):
        numbers = (weight, budget.most, found.points[name].costs[cost.name])
        rows.append([name, *(f"{number:.6g}" for number in numbers), f"{value:.4f}"])
    write_table(["platform", "weight", "budget", file.cost, metric], rows)
    write(f"weighted average of {metric}: {average:.4f}")
    path = Path(options.json or Path(options.file).with_suffix(".json"))
    weights = dict(zip(budgets, file.weights, strict=True))
    save_found(found, path, {**settings.to_json(), "weights": weights, "average": {metric: average}})
    write(f"widths and figures are in {path}")
    return 0
