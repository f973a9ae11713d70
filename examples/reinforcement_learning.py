"""Policies that act at any width: CartPole, Acrobot and Atari's Breakout, from one set of weights each.

Each is trained by its recipe (``reinforcement-learning/cartpole`` and so on), and every few epochs the mean reward of
validation episodes at four widths is noted: the curve. In the end test episodes are played at seven widths, and as many
by a policy that draws its actions blindly. For CartPole four independent networks are trained as well, one for each
width.

``--epochs`` and ``--n`` shorten Breakout's run, whose recipe has the paper's settings and takes days on a CPU. A run
that was stopped goes on where it was: everything is in ``--folder``.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from slimmable.core.model import SlimmableModel
from slimmable.measure.evaluation import evaluate
from slimmable.recipes.building import new_network, sampler
from slimmable.recipes.config import Recipe
from slimmable.recipes.methods import Independent, UsNet
from slimmable.recipes.registry import recipe
from slimmable.recipes.reinforcement_section import ReinforcementLearningSettings
from slimmable.record import RunRecord, atomic_write_json, atomic_write_text, environment
from slimmable.report.chart import line_chart
from slimmable.tasks import ReinforcementLearningTask
from slimmable.train import fit
from slimmable.train.checkpoint import load_trained

RATIOS = (1.0, 0.75, 0.5, 0.25)
SEVEN = tuple(0.25 + 0.125 * index for index in range(7))
SOLVED = {"cartpole": 475.0, "acrobot": -100.0}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "reinforcement-learning.json"

console = Console()


class Blind(nn.Module):
    """A policy to which all actions are alike."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values of zero."""
        return x.new_zeros(len(x), self.actions), x.new_zeros(len(x), 1)


class OutOfTime(KeyboardInterrupt):
    """A run has taken as long as it may."""


class Curve:
    """Mean rewards of validation episodes at some widths, every few epochs, kept in a file; ends a run in time."""

    def __init__(
        self,
        net: SlimmableModel,
        task: ReinforcementLearningTask,
        path: Path,
        *,
        ratios: tuple[float, ...],
        every: int,
        seconds: tuple[float, float],
    ) -> None:
        self.net, self.task, self.path, self.ratios, self.every = net, task, path, ratios, every
        self.points: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        self.seconds, self.most = seconds

    def epoch_started(self, epoch: int, *, steps: int) -> None:
        """Nothing to note."""

    def step_done(self, step: int, *, losses: Sequence[float], lr: float) -> None:
        """Nothing to note."""

    def epoch_done(self, entry: Mapping[str, Any]) -> None:
        """Play, if it is time to."""
        self.seconds += entry["seconds"]
        if entry["epoch"] % self.every == 0:
            self._play(entry["epoch"])
        if self.seconds >= self.most:
            raise OutOfTime

    def close(self) -> None:
        """Nothing is open."""

    def _play(self, epoch: int) -> None:
        figures = figures_at(self.net, self.task, self.ratios, batches=self.task.validation_batches())
        steps = epoch * steps_of_an_epoch(self.task)
        rewards = {ratio: each["mean_reward"] for ratio, each in figures.items()}
        self.points.append({"steps": steps, "seconds": self.seconds, "rewards": rewards})
        atomic_write_json(self.path, self.points)
        console.print(f"{steps:>9,} steps, {self.seconds:.0f} s:", *(f"{each:8.1f}" for each in rewards.values()))


def steps_of_an_epoch(task: ReinforcementLearningTask) -> int:
    """Steps of all environments together."""
    return task.ppo.roll_outs * task.ppo.steps * task.environment.parallel


def figures_at(
    net: SlimmableModel, task: ReinforcementLearningTask, ratios: tuple[float, ...], *, batches: Iterable[Any]
) -> dict[str, dict[str, float]]:
    """Figures over episodes, by ratio."""
    widths = [net.space.uniform(ratio) for ratio in ratios]
    found = evaluate(net, batches, widths, forward=task.forward, metric_factory=task.metrics)
    return dict(zip(map(str, ratios), found, strict=True))


def taken(folder: Path) -> float:
    """Seconds that a run has taken so far."""
    path = folder / "record.json"
    return sum(float(str(entry["seconds"])) for entry in RunRecord.load(path).history) if path.exists() else 0.0


def train(
    chosen: Recipe, folder: Path, *, ratios: tuple[float, ...], every: int, minutes: float = math.inf
) -> dict[str, Any]:
    """Train by a recipe, or go on with it: the curve, how fast it went, and test episodes."""
    task = chosen.task.build()
    assert isinstance(task, ReinforcementLearningTask)
    net = new_network(chosen, task)
    past, most = taken(folder), 60 * minutes
    curve = Curve(net, task, folder / "curve.json", ratios=ratios, every=every, seconds=(past, most))
    choice = sampler(chosen, net, steps_per_epoch=task.ppo.updates(parallel=task.environment.parallel))
    if past < most:
        with suppress(OutOfTime):
            fit(net, task, sampler=choice, settings=chosen.train, folder=folder, resume=True, observers=[curve])
    load_trained(net, folder / "last.safetensors")
    seconds, epochs = taken(folder), len(RunRecord.load(folder / "record.json").history)
    steps = epochs * steps_of_an_epoch(task)
    tested = SEVEN if len(ratios) > 1 else ratios
    return {
        "epochs": epochs,
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "curve": curve.points,
        "test": figures_at(net.eval(), task, tested, batches=task.test_batches()),
    }


def blind(chosen: Recipe) -> dict[str, float]:
    """Test episodes of a policy that draws its actions blindly."""
    settings = chosen.task
    task = settings.build()
    assert isinstance(task, ReinforcementLearningTask)
    task = ReinforcementLearningTask(replace(task.environment, greedy=False, test_episodes=40), ppo=task.ppo)
    metric = task.metrics()
    for batch in task.test_batches():
        outputs = task.forward(Blind(len(task.spaces.actions)), batch)
        assert isinstance(outputs, Tensor)
        metric.update(outputs, batch)
    return metric.compute()


def experiment(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one environment."""
    chosen = recipe(f"reinforcement-learning/{name}")
    minutes = math.inf
    if name == "breakout":
        train_settings = replace(chosen.train, epochs=options.epochs)
        assert isinstance(chosen.task, ReinforcementLearningSettings)
        task = chosen.task.model_copy(update={"ppo": replace(chosen.task.ppo, kl_weight=options.kl)})
        chosen = chosen.model_copy(update={"task": task, "train": train_settings, "method": UsNet(n=options.n)})
        minutes = options.minutes
    # The curve is measured here, at more widths than the loop would validate.
    chosen = chosen.model_copy(update={"train": replace(chosen.train, validate_every=chosen.train.epochs)})
    console.rule(name)
    began = time.perf_counter()
    found: dict[str, Any] = {
        "recipe": chosen.model_dump(mode="json"),
        "solved": SOLVED.get(name),
        "blind": blind(chosen),
        "shared": train(chosen, options.folder / name, ratios=RATIOS, every=options.every, minutes=minutes),
    }
    if name == "cartpole":
        found["independent"] = {
            str(ratio): train(
                chosen.model_copy(update={"method": Independent(width=ratio)}),
                options.folder / f"{name}-{ratio}",
                ratios=(ratio,),
                every=options.every,
            )
            for ratio in RATIOS
        }
    found["minutes"] = (time.perf_counter() - began) / 60
    return found


def main() -> None:
    """Train what was asked for, print a table, write figures and a chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cartpole", "acrobot"], help="cartpole, acrobot, breakout")
    parser.add_argument("--folder", type=Path, default=Path("runs/reinforcement-learning"))
    parser.add_argument("--epochs", type=int, default=14, help="of Breakout, 16,384 steps each")
    parser.add_argument("--minutes", type=float, default=100.0, help="of Breakout's training, at most")
    parser.add_argument("--n", type=int, default=3, help="widths of a step, of Breakout")
    parser.add_argument("--kl", type=float, default=1.0, help="weight of the divergence from the widest, of Breakout")
    parser.add_argument("--every", type=int, default=2, help="epochs between points of the curve")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name in options.names:
        found = experiment(name, options)
        results[name] = {**found, "environment": environment(threads=torch.get_num_threads())}
        atomic_write_json(options.results, results)
        curve = found["shared"]["curve"]
        chart = line_chart(
            {str(ratio): [(at["steps"], at["rewards"][str(ratio)]) for at in curve] for ratio in RATIOS},
            title=f"{name}: one set of weights at four widths",
            x="steps of the environments",
            y="mean reward of an episode",
            levels={"blind": found["blind"]["mean_reward"]},
        )
        atomic_write_text(options.results.with_name(f"{options.results.stem}-{name}.svg"), chart)
        table = Table("width", "mean reward", "least", "trained alone", title=name)
        for ratio, figures in found["shared"]["test"].items():
            alone = found.get("independent", {}).get(ratio)
            row = (f"{figures['mean_reward']:.1f}", f"{figures['min_reward']:.1f}")
            table.add_row(ratio, *row, f"{alone['test'][ratio]['mean_reward']:.1f}" if alone else "")
        console.print(table)
        figures = (f"{ratio}={found['shared']['test'][str(ratio)]['mean_reward']:.1f}" for ratio in RATIOS)
        console.print(f"{name} blind={found['blind']['mean_reward']:.1f}", *figures)


if __name__ == "__main__":
    main()
