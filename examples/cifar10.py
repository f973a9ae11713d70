"""Ways to one network at several widths, compared on CIFAR-10 from a folder of images.

A small ResNet is trained with the same loop, data, epochs, optimizer and schedule as

* independent networks, built natively at 4 widths: the curve to match, at the price of 4 trainings and 4 networks. Each
  is trained with two seeds: the curve is their mean, and how far they differ is the noise of a training;
* S-Net: one set of weights, 4 switches with private batch norm;
* US-Net: one set of weights for any width, by the sandwich rule, in-place distillation and calibration. In trainings of
  fewer steps than this one, widths that all learn from the labels do better (``--no-distill``);
* naive sharing: one set of weights and one batch norm for 4 widths, which fails.

US-Net is measured at 16 widths against the independent networks' curve, and once more without calibration: with the
widest network's batch-norm statistics cut to size. The folder holds ``train/CLASS/*`` and ``test/CLASS/*``.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.models import resnet_cifar
from slimmable.record import atomic_write_json, environment
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.train import Fixed, Sandwich, SwitchList, TrainSettings, WidthSampler, fit

SWITCHES = (0.25, 0.5, 0.75, 1.0)
# Rounded to multiples of 8 channels, no two of these ratios give the same network.
RATIOS = (0.25, 0.3, 0.35, 0.41, 0.45, 0.5, 0.55, 0.6, 0.66, 0.7, 0.75, 0.8, 0.85, 0.91, 0.95, 1.0)
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "cifar10.json"

console = Console()


@dataclass(kw_only=True)
class Outcome:
    """A method's figures.

    Attributes:
        accuracy: Test accuracy, by ratio.
        uncalibrated: The same with the widest network's statistics cut to size.
        macs: Multiply-accumulates per image, by ratio.
        seconds: Time of training.
    """

    accuracy: dict[float, float] = field(default_factory=dict)
    uncalibrated: dict[float, float] = field(default_factory=dict)
    macs: dict[float, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What all methods share: data, network and settings."""

    task: ClassificationTask
    options: argparse.Namespace

    def network(self, width: float = 1.0, seed: int = 0) -> nn.Module:
        """ResNet-8 with 32, 64 and 128 channels at width 1; its first convolution halves the image to save time."""
        torch.manual_seed(self.options.seed + seed)
        plain = resnet_cifar(8, 2 * width)
        assert isinstance(plain.conv1, nn.Conv2d)
        plain.conv1.stride = (2, 2)
        return plain

    def convert(self, width: float = 1.0, seed: int = 0, **how: Any) -> SlimmableModel:
        """The network made elastic; ``how`` is passed to ``slimmable.convert``."""
        return slimmable.convert(self.network(width, seed), self.task.example_inputs(), **how)

    def train(self, net: SlimmableModel, sampler: WidthSampler, *, distillation: bool = False, seed: int = 0) -> float:
        """Train ``net`` in place; the seconds that took."""
        epochs = self.options.epochs
        settings = TrainSettings(
            epochs=epochs,
            lr=self.options.lr,
            warmup_epochs=1,
            weight_decay=5e-4,
            distillation=distillation,
            seed=self.options.seed + seed,
            validate_every=epochs,
        )
        started = time.perf_counter()
        fit(net, self.task, sampler=sampler, settings=settings)
        return time.perf_counter() - started

    def accuracies(self, net: SlimmableModel, widths_list: Sequence[Widths]) -> list[float]:
        """Accuracy on the test images at every width of a list."""
        forward, metrics = self.task.forward, self.task.metrics
        found = slimmable.evaluate(net, self.task.test_batches(), widths_list, forward=forward, metric_factory=metrics)
        return [figures["accuracy"] for figures in found]

    def enter(
        self, outcome: Outcome, net: SlimmableModel, widths_list: Sequence[Widths], ratios: Sequence[float]
    ) -> None:
        """Enter accuracies and costs at some widths."""
        outcome.accuracy |= dict(zip(ratios, self.accuracies(net, widths_list), strict=True))
        costs = [slimmable.macs(net, widths) for widths in widths_list]
        outcome.macs |= dict(zip(ratios, costs, strict=True))

    def independent(self, ratio: float, seed: int = 0) -> Outcome:
        """A network of its own for a switch."""
        net = self.convert(ratio, seed, min_ratio=1.0)
        outcome = Outcome(seconds=self.train(net, Fixed(net.space.largest), seed=seed))
        self.enter(outcome, net, [net.space.largest], [ratio])
        return outcome

    def s_net(self) -> Outcome:
        """Private batch norm for four switches."""
        net = self.convert(switches=SWITCHES)
        outcome = Outcome(seconds=self.train(net, SwitchList(net.switches)))
        self.enter(outcome, net, net.switches, SWITCHES)
        return outcome

    def naive(self) -> Outcome:
        """One batch norm for four widths."""
        net = self.convert(batch_norm="naive")
        widths_list = [net.space.uniform(ratio) for ratio in SWITCHES]
        outcome = Outcome(seconds=self.train(net, SwitchList(widths_list)))
        self.enter(outcome, net, widths_list, SWITCHES)
        return outcome

    def us_net(self) -> Outcome:
        """Any width: widest, narrowest and two random ones in every step, batch norm calibrated afterwards."""
        net = self.convert()
        sampler = Sandwich(net.space, n=4, seed=self.options.seed)
        outcome = Outcome(seconds=self.train(net, sampler, distillation=self.options.distill))
        widths_list = [net.space.uniform(ratio) for ratio in RATIOS]
        for widths in widths_list:
            cut_statistics(net, widths)
        outcome.uncalibrated = dict(zip(RATIOS, self.accuracies(net, widths_list), strict=True))
        slimmable.calibrate(net, self.task.calibration_batches(samples=2000, seed=self.options.seed), widths_list)
        self.enter(outcome, net, widths_list, RATIOS)
        return outcome


TRAININGS: dict[str, list[Callable[[Comparison], Outcome]]] = {
    "independent": [partial(Comparison.independent, ratio=ratio) for ratio in SWITCHES],
    "again": [partial(Comparison.independent, ratio=ratio, seed=1) for ratio in SWITCHES],
    "S-Net": [Comparison.s_net],
    "US-Net": [Comparison.us_net],
    "naive": [Comparison.naive],
}
"""What each method trains, one network after the other."""


def together(parts: Sequence[Outcome]) -> Outcome:
    """The figures of a method from those of its trainings."""
    whole = Outcome(seconds=sum(part.seconds for part in parts))
    for part in parts:
        whole.accuracy |= part.accuracy
        whole.uncalibrated |= part.uncalibrated
        whole.macs |= part.macs
    return whole


def cut_statistics(net: SlimmableModel, widths: Widths) -> None:
    """Give ``widths`` the widest network's statistics, cut to size: what happens where nobody calibrates."""
    full = net.table(net.space.largest)
    own = net.table(widths) or net.new_table(widths)
    assert full is not None
    for name, statistic in own.named_buffers():
        whole = full.get_buffer(name)
        statistic.copy_(whole[: len(statistic)] if whole.dim() else whole)
    net.stamp(own)


def margins(outcome: Outcome, *curves: Outcome) -> dict[float, float]:
    """Accuracy above the mean curve of the independent networks, which is interpolated over the logarithm of MACs."""
    macs = curves[0].macs
    x = [math.log(macs[ratio]) for ratio in SWITCHES]
    y = [sum(curve.accuracy[ratio] for curve in curves) / len(curves) for ratio in SWITCHES]
    return {r: a - float(np.interp(math.log(outcome.macs[r]), x, y)) for r, a in outcome.accuracy.items()}


def noise(one: Outcome, other: Outcome) -> float:
    """Two standard deviations of the difference of two trainings of one network, from trainings at every switch."""
    squares = [(one.accuracy[ratio] - other.accuracy[ratio]) ** 2 for ratio in SWITCHES]
    return 2 * math.sqrt(sum(squares) / len(squares))


def show(outcomes: dict[str, Outcome]) -> None:
    """Print all accuracies."""
    table = Table(title="Test accuracy (%) on CIFAR-10")
    for heading in ("width", "MACs (M)", *outcomes, "uncalibrated US-Net"):
        table.add_column(heading, justify="right")
    us_net = outcomes["US-Net"]
    for ratio in RATIOS:
        cells = [*(outcome.accuracy.get(ratio) for outcome in outcomes.values()), us_net.uncalibrated[ratio]]
        shown = ["" if cell is None else f"{100 * cell:.1f}" for cell in cells]
        table.add_row(f"{ratio:.2f}", f"{us_net.macs[ratio] / 1e6:.2f}", *shown)
    console.print(table)


def main() -> None:
    """Run the comparison; see ``--help``."""
    parser = argparse.ArgumentParser(description="Compare ways to one network at several widths on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--train-samples", type=int, default=1000)
    parser.add_argument("--test-samples", type=int, default=None, help="all of them by default")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--distill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the widest width teach the others of the US-Net (default), or teach all of them the labels",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    options = parser.parse_args()
    data = ImageDataSettings(
        dataset="folder",
        root=options.folder,
        batch_size=options.batch_size,
        train_samples=options.train_samples,
        test_samples=options.test_samples,
    )
    comparison = Comparison(task=ClassificationTask(data), options=options)
    started = time.perf_counter()
    with ProcessPoolExecutor(
        options.workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        longest_first = sorted(TRAININGS, key=lambda name: len(TRAININGS[name]))
        jobs = {name: [pool.submit(each, comparison) for each in reversed(TRAININGS[name])] for name in longest_first}
        outcomes: dict[str, Outcome] = {}
        for name in TRAININGS:
            outcomes[name] = together([job.result() for job in reversed(jobs[name])])
            console.print(f"{name}: {outcomes[name].seconds:.0f} s of training")
    minutes = (time.perf_counter() - started) / 60
    show(outcomes)
    images = sum(len(batch.labels) for batch in comparison.task.test_batches())
    us_net = outcomes["US-Net"]
    above = margins(us_net, outcomes["independent"], outcomes["again"])
    figures = {
        "us_net_min_margin": min(above.values()),
        "us_net_mean_margin": sum(above.values()) / len(above),
        "noise": noise(outcomes["independent"], outcomes["again"]),
        "naive_narrowest": outcomes["naive"].accuracy[0.25],
        "uncalibrated_mean": sum(us_net.uncalibrated[ratio] for ratio in RATIOS[:-1]) / (len(RATIOS) - 1),
        "minutes": minutes,
    }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["folder"], settings["results"]
    record = {
        "environment": environment(device="cpu", threads=1),
        "settings": {**settings, "test_images": images},
        "figures": figures,
        "margins": above,
        "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    atomic_write_json(options.results, record)
    print(" ".join(f"{key}={value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
