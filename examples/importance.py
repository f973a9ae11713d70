"""Which channels to keep: a trained ResNet-20 narrowed without further training, its channels sorted or not.

A plain ResNet-20 is trained at full width, on scikit-learn's digits or on images from a folder. It is then converted
once for each order of its channels, as given and by each of ``slimmable.convert``'s scores; batch norm is calibrated;
and accuracy on the test images is measured at five widths. No weight is trained after conversion, so that all that
differs is which channels the narrow widths keep.

With several ``--seeds`` the whole is repeated with other networks. The folder holds ``train/CLASS/*`` and
``test/CLASS/*``.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import slimmable
from slimmable.models import resnet_cifar
from slimmable.record import atomic_write_json, environment
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.train import Fixed, TrainSettings, fit

RATIOS = (1.0, 0.875, 0.75, 0.625, 0.5)
ORDERS = {"given": None, "l1": "l1", "filters": "filters", "batch_norm": "batch_norm"}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

console = Console()

Accuracies = dict[str, dict[float, float]]
"""By order and ratio."""


def task_of(options: argparse.Namespace) -> ClassificationTask:
    """Digits, or images in a folder; a network for either."""

    def network() -> nn.Module:
        plain = resnet_cifar(20)
        if options.folder is not None:  # halve images of 32 x 32 pixels in the first convolution, to save time
            assert isinstance(plain.conv1, nn.Conv2d)
            plain.conv1.stride = (2, 2)
        return plain

    data = ImageDataSettings(
        dataset="digits" if options.folder is None else "folder",
        root=options.folder,
        channels=3,
        batch_size=64,
        train_samples=options.train_samples,
    )
    return ClassificationTask(data, network=network)


def trained(task: ClassificationTask, options: argparse.Namespace, seed: int) -> nn.Module:
    """A plain network that was trained at full width alone."""
    torch.manual_seed(seed)
    net = slimmable.convert(task.model(), task.example_inputs(), min_ratio=1.0)
    settings = TrainSettings(
        epochs=options.epochs,
        lr=options.lr,
        warmup_epochs=1,
        weight_decay=5e-4,
        distillation=False,
        seed=seed,
        validate_every=options.epochs,
    )
    fit(net, task, sampler=Fixed(net.space.largest), settings=settings)
    return net.eval().extract(net.space.largest)


def accuracies(plain: nn.Module, task: ClassificationTask, *, seed: int) -> tuple[Accuracies, dict[float, int]]:
    """Of every order at every ratio, after calibration; and multiply-accumulates by ratio."""
    found: Accuracies = {}
    macs: dict[float, int] = {}
    for name, importance in ORDERS.items():
        net = slimmable.convert(plain, task.example_inputs(), min_ratio=0.5, importance=importance)
        widths_list = [net.space.uniform(ratio) for ratio in RATIOS]
        slimmable.calibrate(net, task.calibration_batches(samples=1000, seed=seed), widths_list)
        figures = slimmable.evaluate(
            net, task.test_batches(), widths_list, forward=task.forward, metric_factory=task.metrics
        )
        found[name] = {ratio: each["accuracy"] for ratio, each in zip(RATIOS, figures, strict=True)}
        macs = {ratio: slimmable.macs(net, widths) for ratio, widths in zip(RATIOS, widths_list, strict=True)}
    return found, macs


def mean(runs: list[Accuracies]) -> Accuracies:
    """Over all networks."""
    return {name: {r: sum(run[name][r] for run in runs) / len(runs) for r in RATIOS} for name in ORDERS}


def show(found: Accuracies, macs: dict[float, int], title: str) -> None:
    """Print all accuracies."""
    table = Table(title=title)
    for heading in ("width", "MACs (M)", *found):
        table.add_column(heading, justify="right")
    for ratio in RATIOS:
        cells = [f"{100 * of_order[ratio]:.1f}" for of_order in found.values()]
        table.add_row(f"{ratio:g}", f"{macs[ratio] / 1e6:.2f}", *cells)
    console.print(table)


def main() -> None:
    """Run the comparison; see ``--help``."""
    parser = argparse.ArgumentParser(description="Narrow a trained ResNet-20 with its channels sorted or not.")
    parser.add_argument("folder", type=Path, nargs="?", help="with train/CLASS/* and test/CLASS/*; digits if not given")
    parser.add_argument("--train-samples", type=int, default=None, help="all of them by default")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3, help="networks to train; figures are their mean")
    parser.add_argument("--results", type=Path, default=None, help="where the figures are written")
    options = parser.parse_args()
    task = task_of(options)
    started = time.perf_counter()
    runs: list[Accuracies] = []
    macs: dict[float, int] = {}
    for seed in range(options.seeds):
        found, macs = accuracies(trained(task, options, seed), task, seed=seed)
        runs.append(found)
        console.print(f"network {seed + 1} of {options.seeds}: {time.perf_counter() - started:.0f} s so far")
    data = "digits" if options.folder is None else "folder"
    averaged = mean(runs)
    show(averaged, macs, f"Test accuracy (%), {data}, mean of {len(runs)} networks, none trained after conversion")
    images = sum(len(batch.labels) for batch in task.test_batches())
    figures = {"full": averaged["given"][1.0]}
    for ratio in (0.75, 0.5):
        figures |= {f"{name}_{ratio:g}": averaged[name][ratio] for name in ("given", "l1")}
    half = averaged["given"][0.5]
    figures["noise"] = 2 * math.sqrt(2 * half * (1 - half) / images / len(runs))
    figures["minutes"] = (time.perf_counter() - started) / 60
    record = {
        "environment": environment(device="cpu", threads=torch.get_num_threads()),
        "settings": {
            "data": data,
            "test_images": images,
            **{key: getattr(options, key) for key in ("train_samples", "epochs", "lr", "seeds")},
        },
        "figures": figures,
        "macs": macs,
        "accuracy": averaged,
        "runs": runs,
    }
    atomic_write_json(options.results or RESULTS / f"importance-{data}.json", record)
    print(" ".join(f"{key}={value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
