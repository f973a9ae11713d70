"""One network for seven platforms on CIFAR-10: the table of the multi-platform paper, from one command.

MobileNet v1 is searched and trained as in sections 4.1 to 4.3 of the paper, reduced to what one core does in two
hours: fewer images of fewer pixels, fewer epochs, half of the channels, CIFAR-10 instead of CIFAR-100. The platforms'
budgets are the multiply-accumulates of the uniform networks of 0.25 to 1.0. Then

* Slim keeps the uniform widths; OWS finds widths by training one network at random ones and solving for each budget;
  AOWS does so once for each of six weightings of the platforms, by which it also samples;
* each of these seven-width networks is trained with private batch norm, drawing the platforms between the ends
  uniformly (-U) or by weight (-W);
* single networks of the uniform widths and of OWS's are trained alone.

Accuracies are averaged over the platforms by each weighting. The folder holds ``train/CLASS/*`` and ``test/CLASS/*``.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.cost.costs import closed_form
from slimmable.models import mobilenet_v1_cifar
from slimmable.recipes.found import for_platforms
from slimmable.record import atomic_write_json, environment
from slimmable.search import Additive, Alternatives, additive
from slimmable.search.ows import Adaptation, Ows
from slimmable.search.platforms import TARGET_RATIOS, WEIGHTINGS, Platform, weighted_average
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.train import Constant, DrawnSwitches, Exponential, Fixed, TrainSettings, WidthSampler, fit

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "platforms.json"
METHODS = ("Slim-U", "Slim-W", "OWS-U", "OWS-W", "AOWS-U", "AOWS-W")

console = Console()


@dataclass(kw_only=True)
class Study:
    """What all trainings share: data, budgets, settings; and what has been found so far."""

    task: ClassificationTask
    options: argparse.Namespace
    seconds: dict[str, float] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """MobileNet v1 with half of its channels; dropout acts on the widest switch only, as in the paper."""
        torch.manual_seed(self.options.seed)
        return mobilenet_v1_cifar(0.5, num_classes=10, dropout=self.options.dropout)

    def convert(self, **how: Any) -> SlimmableModel:
        """The network made elastic from 0.2 to 1.5 of its channels."""
        return slimmable.convert(self.network(), self.task.example_inputs(), min_ratio=0.2, max_ratio=1.5, **how)

    def train(
        self, name: str, net: SlimmableModel, sampler: WidthSampler, *, epochs: int, search: bool = False
    ) -> None:
        """Train ``net`` in place: searches at a constant rate, final trainings at one that falls."""
        settings = TrainSettings(
            epochs=epochs,
            lr=self.options.lr,
            # 0.985 per epoch over the paper's 300 epochs, spread over these.
            schedule=Constant() if search else Exponential(ratio=0.985 ** (300 / epochs)),
            weight_decay=5e-4,
            distillation=False,
            dropout_widest_only=True,
            seed=self.options.seed,
            validate_every=epochs,
        )
        began = time.perf_counter()
        fit(net, self.task, sampler=sampler, settings=settings)
        self.seconds[name] = time.perf_counter() - began
        console.print(f"{name}: {self.seconds[name]:.0f} s of training")

    def accuracies(self, net: SlimmableModel, widths_list: Sequence[Widths]) -> list[float]:
        """Accuracy on the test images at every width of a list."""
        forward, metrics = self.task.forward, self.task.metrics
        found = slimmable.evaluate(net, self.task.test_batches(), widths_list, forward=forward, metric_factory=metrics)
        return [figures["accuracy"] for figures in found]

    def search(self, weighting: str | None, budgets: Sequence[float]) -> dict[str, Widths]:
        """Widths of every platform by OWS, or by AOWS with the platforms sampled by a weighting."""
        net = self.convert()
        alternatives = Alternatives.of(net.space, most=14)
        cost = additive(closed_form(net, "macs"), alternatives)
        weights = WEIGHTINGS[weighting or "U"]
        platforms = tuple(
            Platform(name=f"{ratio}", budget=budget, importance=weight, sampling=weight)
            for ratio, budget, weight in zip(TARGET_RATIOS, budgets, weights, strict=True)
        )
        adaptation = None if weighting is None else self.adaptation(cost, platforms)
        sampler = Ows(alternatives, window=self.options.window, adaptation=adaptation, seed=self.options.seed)
        name = "search OWS" if weighting is None else f"search AOWS, {weighting}"
        self.train(name, net, sampler, epochs=self.options.search_epochs, search=True)
        found = for_platforms(alternatives, sampler.losses.unary(), cost, platforms)
        return {named.label: named.widths for named in found}

    def adaptation(self, cost: Additive, platforms: tuple[Platform, ...]) -> Adaptation:
        """The paper's: a fifth of the epochs warms up."""
        epochs = self.options.search_epochs
        steps = len(self.task.train_batches(nn.Identity(), epoch=0, seed=0))
        return Adaptation(cost=cost, platforms=platforms, warm_up=steps * epochs // 5, steps=steps * epochs)

    def together(self, name: str, widths: dict[str, Widths], weights: Sequence[float] | None) -> list[float]:
        """Accuracies of the platforms' widths, trained as one network."""
        distinct = tuple(dict.fromkeys(widths.values()))
        net = self.convert(switches=distinct)
        by_widths = dict.fromkeys(distinct, 0.0)
        for each, weight in zip(widths.values(), weights or [1.0] * len(widths), strict=True):
            by_widths[each] += weight
        drawn = [by_widths[each] for each in net.switches]
        sampler = DrawnSwitches(net.switches, weights=drawn, seed=self.options.seed)
        self.train(name, net, sampler, epochs=self.options.epochs)
        # In so few steps a platform of small weight is drawn too seldom for its running averages to settle.
        slimmable.calibrate(net, self.task.calibration_batches(samples=1000, seed=self.options.seed), distinct)
        return self.accuracies(net, list(widths.values()))

    def alone(self, name: str, widths: dict[str, Widths]) -> list[float]:
        """Accuracies of networks that have one of the widths each."""
        found = []
        for platform, each in widths.items():
            net = self.convert(switches=[each])
            self.train(f"{name} {platform}", net, Fixed(each), epochs=self.options.epochs)
            found += self.accuracies(net, [each])
        return found


def show(averages: dict[str, dict[str, float]], alone: dict[str, float]) -> None:
    """Print the averages in the form of Tables 2 and 3 of the paper."""
    table = Table(title="Test accuracy (%) on CIFAR-10, averaged over seven platforms")
    for heading in ("weighting", *METHODS):
        table.add_column(heading, justify="right")
    for weighting, row in averages.items():
        table.add_row(weighting, *(f"{100 * row[method]:.2f}" for method in METHODS))
    console.print(table)
    console.print("alone, weighting U: " + ", ".join(f"{name} {100 * value:.2f}" for name, value in alone.items()))


def main() -> None:
    """Run the study; see ``--help``."""
    parser = argparse.ArgumentParser(description="One network for seven platforms: Slim, OWS and AOWS on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--train-samples", type=int, default=4000)
    parser.add_argument("--test-samples", type=int, default=5000)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--search-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=18, help="of the final trainings")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    options = parser.parse_args()
    data = ImageDataSettings(
        dataset="folder",
        root=options.folder,
        batch_size=options.batch_size,
        image_size=options.image_size,
        train_samples=options.train_samples,
        test_samples=options.test_samples,
        validation_fraction=0.01,
    )
    study = Study(task=ClassificationTask(data), options=options)
    began = time.perf_counter()
    plain = study.convert()
    uniform = {f"{ratio}": plain.space.uniform(ratio) for ratio in TARGET_RATIOS}
    budgets = [float(slimmable.macs(plain, widths)) for widths in uniform.values()]
    searched = {"OWS": study.search(None, budgets)}
    searched |= {f"AOWS {weighting}": study.search(weighting, budgets) for weighting in WEIGHTINGS}
    accuracies: dict[str, list[float]] = {}

    def trained(name: str, widths: dict[str, Widths], weighting: str | None) -> list[float]:
        """Each network is trained once, whatever the weightings that read it."""
        weights = WEIGHTINGS[weighting] if weighting not in (None, "U") else None
        key = f"{name}-{weighting if weights else 'U'}"
        if key not in accuracies:
            accuracies[key] = study.together(key, widths, weights)
        return accuracies[key]

    averages: dict[str, dict[str, float]] = {}
    for weighting, weights in WEIGHTINGS.items():
        sources = {"Slim": uniform, "OWS": searched["OWS"], "AOWS": searched[f"AOWS {weighting}"]}
        row: dict[str, float] = {}
        for name, widths in sources.items():
            label = f"AOWS {weighting}" if name == "AOWS" else name
            row[f"{name}-U"] = weighted_average(trained(label, widths, None), weights)
            row[f"{name}-W"] = weighted_average(trained(label, widths, weighting), weights)
        averages[weighting] = row
    single = {"original": study.alone("alone, uniform", uniform), "OWS": study.alone("alone, OWS", searched["OWS"])}
    alone = {name: weighted_average(values, WEIGHTINGS["U"]) for name, values in single.items()}
    show(averages, alone)
    figures = {
        method.replace("-", "_").lower(): sum(row[method] for row in averages.values()) / 6 for method in METHODS
    }
    figures |= {"alone_original": alone["original"], "alone_ows": alone["OWS"]}
    figures["minutes"] = (time.perf_counter() - began) / 60
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["folder"], settings["results"]
    used = {
        name: {
            platform: [budget, slimmable.macs(plain, each), list(each.channels)]
            for budget, (platform, each) in zip(budgets, widths.items(), strict=True)
        }
        for name, widths in {"Slim": uniform, **searched}.items()
    }
    record = {
        "environment": environment(device="cpu", threads=torch.get_num_threads()),
        "settings": settings,
        "figures": figures,
        "averages": averages,
        "accuracies": accuracies,
        "alone": single,
        "widths": used,
        "seconds": study.seconds,
    }
    atomic_write_json(options.results, record)
    print(" ".join(f"{key}={value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
