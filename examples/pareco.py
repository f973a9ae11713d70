"""Slim, TwoStage and PareCO on CIFAR-10: who finds the better trade-off of accuracy and MACs in the same steps.

ResNet-20 with the six width parameters of the PareCO paper (one for each stage's residual stream, one for its inner
layers), ratios from 0.316, trained by the same loop, data, steps and schedule as

* Slim: a US-Net, evaluated at uniform widths;
* TwoStage: widths drawn at random for each parameter; after training the Bayesian search of PareCO looks for a front on
  held-out images;
* PareCO: widths found during training, with Pareto-aware sampling;
* PareCO with the weight of the cost drawn uniformly instead (``uniform``), for how evenly it covers the costs.

Fronts are calibrated and measured on the test images: the hypervolume of (MACs, error) below the full network's MACs
and an error of 0.9, both scaled to [0, 1]. To save time, the first convolution halves the image. The folder holds
``train/CLASS/*`` and ``test/CLASS/*``.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.cost.costs import NamedCost, closed_form
from slimmable.models import resnet_cifar
from slimmable.recipes.found import spread
from slimmable.record import Json, atomic_write_json, environment
from slimmable.search import Acquisition, Budget, PareCo, bayesian, hypervolume, unevenness
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.train import Cosine, Sandwich, TrainSettings, WidthSampler, fit

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "pareco.json"
TIES = [["blocks.[012].conv1"], ["blocks.[345].conv1"], ["blocks.[678].conv1"]]
CHANCE = 0.9
POINTS = 16

console = Console()


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all trainings share."""

    task: ClassificationTask
    options: argparse.Namespace

    def convert(self, seed: int) -> SlimmableModel:
        """ResNet-20 of which six widths vary, in steps of four channels."""
        torch.manual_seed(seed)
        plain = resnet_cifar(20)
        assert isinstance(plain.conv1, nn.Conv2d)
        plain.conv1.stride = (2, 2)
        return slimmable.convert(plain, self.task.example_inputs(), min_ratio=0.316, divisor=4, tie=TIES)

    def train(self, net: SlimmableModel, sampler: WidthSampler, seed: int) -> float:
        """Train in place; the seconds that took."""
        epochs = self.options.epochs
        settings = TrainSettings(
            epochs=epochs,
            lr=0.1,
            schedule=Cosine(),
            weight_decay=5e-4,
            distillation=False,
            seed=seed,
            validate_every=epochs,
        )
        began = time.perf_counter()
        fit(net, self.task, sampler=sampler, settings=settings)
        return time.perf_counter() - began

    def errors(self, net: SlimmableModel, widths_list: Sequence[Widths], *, test: bool, seed: int) -> list[float]:
        """Errors after calibration, on the test images or on those held out."""
        slimmable.calibrate(net, self.task.calibration_batches(samples=500, seed=seed), widths_list)
        batches = self.task.test_batches() if test else self.task.validation_batches()
        found = slimmable.evaluate(
            net, batches, widths_list, forward=self.task.forward, metric_factory=self.task.metrics
        )
        if not test:
            net.drop_tables(net.tracked)
        return [1 - figures["accuracy"] if test else figures["loss"] for figures in found]

    def pareco(self, net: SlimmableModel, cost: NamedCost, seed: int, *, uniform: bool) -> PareCo:
        """PareCO's sampler at the size of this study."""
        acquisition = Acquisition(sampling="uniform" if uniform else "pareto", worst_loss=2.3)
        return PareCo(net.space, cost, n=self.options.n, warm_up=12, acquisition=acquisition, seed=seed)


def one(study: Study, method: str, seed: int) -> dict[str, Json]:
    """Train by a method; the figures of what it finds."""
    net = study.convert(seed)
    cost = closed_form(net, "macs")
    chosen: list[Widths] = []
    tried: Sequence[Widths] = ()
    if method in ("Slim", "TwoStage"):
        mode = "uniform" if method == "Slim" else "nonuniform"
        seconds = study.train(net, Sandwich(net.space, mode=mode, seed=seed), seed)
    else:
        sampler = study.pareco(net, cost, seed, uniform=method == "PareCO, uniform")
        seconds = study.train(net, sampler, seed)
        tried = sampler.history[sampler.warm_up + 1 :]
        chosen = [named.widths for named in spread(sampler.front, cost, most=POINTS)]
    if method == "Slim":
        chosen = list(dict.fromkeys(net.space.uniform(ratio) for ratio in np.linspace(0.316, 1, POINTS)))
    elif method == "TwoStage":
        front = bayesian(
            net.space,
            lambda widths_list: study.errors(net, widths_list, test=False, seed=seed),
            [Budget(cost=cost)],
            trials=study.options.trials,
            acquisition=Acquisition(worst_loss=2.3),
            seed=seed,
        )
        chosen = [named.widths for named in spread([point.widths for point in front], cost, most=POINTS)]
    ends = [net.space.smallest, net.space.largest]
    chosen = list(dict.fromkeys([ends[0], *chosen, ends[1]]))
    errors = study.errors(net, chosen, test=True, seed=seed)
    least, most = (float(value) for value in cost(ends))
    scaled = np.stack([(cost(chosen) - least) / (most - least), np.array(errors) / CHANCE], axis=1)
    figures: dict[str, Json] = {
        "hypervolume": hypervolume(scaled, (1.0, 1.0)),
        "seconds": seconds,
        "points": [[int(c), e] for c, e in zip(cost(chosen), errors, strict=True)],
    }
    if tried:
        figures["unevenness"] = unevenness([float(c) for c in cost(tried)], between=(least, most))
        figures["tried"] = [int(c) for c in cost(tried)]
    console.print(f"{method}, seed {seed}: hypervolume {figures['hypervolume']:.4f}, {seconds:.0f} s of training")
    return figures


def main() -> None:
    """Run the study; see ``--help``."""
    parser = argparse.ArgumentParser(description="Compare Slim, TwoStage and PareCO on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--train-samples", type=int, default=2000)
    parser.add_argument("--test-samples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n", type=int, default=20, help="steps of training between searches of PareCO")
    parser.add_argument("--trials", type=int, default=100, help="widths that TwoStage's search evaluates")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    options = parser.parse_args()
    data = ImageDataSettings(
        dataset="folder",
        root=options.folder,
        batch_size=options.batch_size,
        train_samples=options.train_samples,
        test_samples=options.test_samples,
        validation_fraction=0.01,
    )
    study = Study(task=ClassificationTask(data), options=options)
    methods = ("Slim", "TwoStage", "PareCO", "PareCO, uniform")
    began = time.perf_counter()
    runs = {method: [one(study, method, seed) for seed in range(options.seeds)] for method in methods}

    def mean(method: str, key: str) -> tuple[float, float]:
        values = np.array([run[key] for run in runs[method]], dtype=np.float64)
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0

    table = Table(title="Hypervolume of (MACs, test error)")
    for heading in ("method", "mean", "standard deviation", "seconds"):
        table.add_column(heading, justify="right")
    figures: dict[str, float] = {}
    for method in methods:
        volume, deviation = mean(method, "hypervolume")
        key = method.lower().replace(", ", "_")
        figures |= {f"hypervolume_{key}": volume, f"deviation_{key}": deviation}
        table.add_row(method, f"{volume:.4f}", f"{deviation:.4f}", f"{mean(method, 'seconds')[0]:.0f}")
    console.print(table)
    for method in methods[2:]:
        figures[f"unevenness_{method.lower().replace(', ', '_')}"] = mean(method, "unevenness")[0]
    figures["minutes"] = (time.perf_counter() - began) / 60
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["folder"], settings["results"]
    record = {
        "environment": environment(device="cpu", threads=torch.get_num_threads()),
        "settings": settings,
        "figures": figures,
        "runs": runs,
    }
    atomic_write_json(options.results, record)
    print(" ".join(f"{key}={value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
