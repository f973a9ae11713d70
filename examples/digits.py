"""One set of weights for every width, on scikit-learn's handwritten digits: what ``make demo`` runs.

Converts a small network, trains it as a US-Net, calibrates and measures it at 13 widths, and extracts one of them as a
plain PyTorch network. Takes less than a minute on two CPU cores and needs no download.
"""

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import slimmable
from slimmable.record import atomic_write_json, environment
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.train import Sandwich, TrainSettings, fit


def main() -> None:
    """Run the example; see ``--help``."""
    parser = argparse.ArgumentParser(description="Train, calibrate, measure and extract a US-Net on digits.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("runs/digits.json"), help="where the figures are written")
    options = parser.parse_args()
    console = Console()
    started = time.perf_counter()
    torch.manual_seed(options.seed)

    # A task is data, losses and a metric. Its network is plain PyTorch; `convert` makes any such network elastic.
    task = ClassificationTask(ImageDataSettings(dataset="digits", batch_size=64), network="digits_cnn")
    net = slimmable.convert(task.model(), task.example_inputs(), min_ratio=0.25)
    console.print(f"{len(net.space)} groups of channels can vary, each from 0.25 to 1.0 of its width")

    # Every step trains the widest, the narrowest and two random widths; the widest teaches the others.
    sampler = Sandwich(net.space, n=4, seed=options.seed)
    settings = TrainSettings(epochs=options.epochs, lr=0.1, weight_decay=5e-4, distillation=True, seed=options.seed)
    fit(net, task, sampler=sampler, settings=settings)

    # The weights serve every width. Batch norm's statistics do not: they are measured on training images, per width.
    ratios = [0.25 + 0.75 * i / 12 for i in range(13)]
    widths_list = [net.space.uniform(ratio) for ratio in ratios]
    slimmable.calibrate(net, task.calibration_batches(samples=1000, seed=options.seed), widths_list)
    found = slimmable.evaluate(net, task.test_batches(), widths_list, forward=task.forward, metric_factory=task.metrics)

    table = Table("width", "test accuracy", "MACs", "parameters", title="One set of weights at 13 widths")
    rows = []
    for ratio, widths, figures in zip(ratios, widths_list, found, strict=True):
        macs, parameters = slimmable.macs(net, widths), slimmable.parameters(net, widths)
        rows.append({"ratio": ratio, "accuracy": figures["accuracy"], "macs": macs, "parameters": parameters})
        table.add_row(f"{ratio:.4f}", f"{figures['accuracy']:.4f}", f"{macs:,}", f"{parameters:,}")
    console.print(table)

    # A sub-network to deploy: classes of torch.nn only, batch norm folded into the convolutions.
    half = net.space.uniform(0.5)
    small = net.extract(half, fold_batch_norm=True)
    (images,) = next(iter(task.calibration_batches(samples=64, seed=options.seed)))
    with torch.no_grad(), net.eval().at(half):
        expected = net(images)
        error = ((small(images) - expected).abs().max() / expected.abs().max()).item()
    if error > 1e-5:
        raise SystemExit(f"the extracted network's output is off by {error:.1e} of the largest output; expected 1e-5")
    console.print(f"extracted {type(small).__name__} at half width; its output differs by {error:.1e}, relative")

    summary = {
        "accuracy_full": found[-1]["accuracy"],
        "accuracy_narrowest": found[0]["accuracy"],
        "extraction_error": error,
        "seconds": time.perf_counter() - started,
    }
    place = environment(device="cpu", threads=torch.get_num_threads())
    atomic_write_json(options.results, {"figures": summary, "widths": rows, "settings": settings, "environment": place})
    print(" ".join(f"{key}={value:.4g}" for key, value in summary.items()))


if __name__ == "__main__":
    main()
