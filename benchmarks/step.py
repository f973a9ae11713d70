"""Time and memory of a training step at four widths, against the same four networks built natively.

A step of the sandwich rule runs forward and backward at four widths of one set of weights, then one optimizer step.
The *native* step does the same with four networks as they come out of ``slimmable.models`` at these widths, each with
its own weights, and one optimizer step on the widest: without tricks nothing is faster. Both sides use channels_last,
the same batch, loss and fused SGD.

Besides, without a bar: widths that differ from layer to layer, with plans that are kept and with plans made anew in
every step, and plain slicing under autograd, which gives the same gradients.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from common import Ratio, conclude, interleaved, parser, peak_bytes, show, start_over_with_tuned_malloc
from torch import Tensor, nn
from torch.optim import SGD

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.models import mobilenet_v1_cifar, resnet_cifar
from slimmable.record import Json
from slimmable.tasks import ClassificationTask
from slimmable.tasks.images.memory import ImageBatch
from slimmable.train import Sgd, parameter_groups, train_step

RATIOS = (1.0, 0.77, 0.48, 0.25)
NETWORKS: dict[str, Callable[[float], nn.Module]] = {
    "mobilenet_v1": lambda width: mobilenet_v1_cifar(width, num_classes=10),
    "resnet20": lambda width: resnet_cifar(20, width),
}
AGAINST = {
    "uniform": "native",
    "uniform, sliced": "native",
    "per layer": "native per layer",
    "per layer, new plans": "native per layer",
}
"""What is compared with what."""

WEIGHT_DECAY = 1e-4
LEARNING_RATE = 1e-3

Step = Callable[[], None]


NetworkT = TypeVar("NetworkT", bound=nn.Module)


def _channels_last(network: NetworkT) -> NetworkT:
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Bench:
    """A network at full width, a batch, and the steps that are compared."""

    build: Callable[[float], nn.Module]
    batch: ImageBatch

    @staticmethod
    def of(name: str, size: int) -> Bench:
        """The network called ``name`` with ``size`` random images."""
        torch.manual_seed(0)
        images = torch.randn(size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        return Bench(NETWORKS[name], ImageBatch(images, torch.randint(10, (size,))))

    @cached_property
    def task(self) -> ClassificationTask:
        """Cross-entropy over ten classes."""
        return ClassificationTask()

    def converted(self) -> SlimmableModel:
        """The elastic network, ready to train."""
        net = slimmable.convert(self.build(1.0), self.batch.images[:2])
        return _channels_last(net).train()

    def loss(self, network: nn.Module) -> Tensor:
        """The loss on the batch."""
        return self.task.loss(self.task.forward(network, self.batch), self.batch)

    def shared(self, net: SlimmableModel, widths_list: Sequence[Widths]) -> Step:
        """The step of a training run."""
        optimizer = Sgd().build(parameter_groups(net, weight_decay=WEIGHT_DECAY), lr=LEARNING_RATE)

        def step() -> None:
            optimizer.zero_grad()
            train_step(net, self.batch, task=self.task, widths_list=widths_list, distill=False)
            optimizer.step()

        return step

    def sliced(self, net: SlimmableModel, widths_list: Sequence[Widths]) -> Step:
        """The same step by slicing under autograd."""
        optimizer = Sgd().build(parameter_groups(net, weight_decay=WEIGHT_DECAY), lr=LEARNING_RATE)

        def step() -> None:
            optimizer.zero_grad()
            for widths in widths_list:
                with net.at(widths):
                    self.loss(net).backward()
            optimizer.step()

        return step

    def native(self, networks: Sequence[nn.Module]) -> Step:
        """Forward and backward pass of every network, and an optimizer step on the first, the widest."""
        weights = [p for p in networks[0].parameters() if p.dim() > 1]
        others = [p for p in networks[0].parameters() if p.dim() <= 1]
        groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        optimizer = SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True, fused=True)

        def step() -> None:
            for network in networks:
                network.zero_grad()
            for network in networks:
                self.loss(network).backward()
            optimizer.step()

        return step

    def built(self, net: SlimmableModel) -> list[nn.Module]:
        """The four uniform widths, built at their width: the same shapes as ours, and nothing of ours in them."""
        networks = [_channels_last(self.build(ratio)).train() for ratio in RATIOS]
        ours = self.extracted(net, [net.space.uniform(ratio) for ratio in RATIOS])
        for theirs, extracted in zip(networks, ours, strict=True):
            shapes = [[p.shape for p in network.parameters()] for network in (theirs, extracted)]
            assert shapes[0] == shapes[1], f"the native network has other shapes: {shapes}"
        return networks

    def extracted(self, net: SlimmableModel, widths_list: Sequence[Widths]) -> list[nn.Module]:
        """Plain networks of the given widths, with contiguous weights of their own."""
        known = net.stored
        slimmable.calibrate(net, [self.batch.images], widths_list)
        networks = [net.extract(widths).train() for widths in widths_list]
        net.drop_tables(keep=known)
        return networks


def times(bench: Bench, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of every kind of step, round by round."""
    net, renewed = bench.converted(), bench.converted()
    uniform = [net.space.uniform(ratio) for ratio in RATIOS]
    generator = random.Random(0)
    drawn = [net.space.largest, *(net.space.random(generator) for _ in range(2)), net.space.smallest]
    native_per_layer = bench.native(bench.extracted(net, drawn))
    steps = {
        "native": bench.native(bench.built(net)),
        "uniform": bench.shared(net, uniform),
        "uniform, sliced": bench.sliced(net, uniform),
        "native per layer": native_per_layer,
        "per layer": bench.shared(net, drawn),
        "per layer, new plans": bench.shared(renewed, drawn),
    }

    def forget_plans(name: str) -> None:
        if name == "per layer, new plans":
            renewed.drop_tables(keep=renewed.stored)

    return interleaved(steps, rounds=options.rounds, clock=options.clock, before=forget_plans)


def memory(bench: Bench) -> dict[str, int]:
    """Peak bytes of our step and of the widest network's own, with parameters, momentum, statistics and batch."""
    net = bench.converted()
    widest = _channels_last(bench.build(1.0)).train()
    ours = peak_bytes(bench.shared(net, [net.space.uniform(ratio) for ratio in RATIOS]))
    theirs = peak_bytes(bench.native([widest]))
    return {"step": ours + _held(net, bench.batch), "widest": theirs + _held(widest, bench.batch)}


def _held(network: nn.Module, batch: ImageBatch) -> int:
    parameters = sum(p.nbytes for p in network.parameters())
    momentum = parameters
    return parameters + momentum + sum(b.nbytes for b in network.buffers()) + batch.images.nbytes + batch.labels.nbytes


def main() -> None:
    """Run the benchmark."""
    start_over_with_tuned_malloc()
    command = parser(__doc__, rounds=15)
    command.add_argument("--batch", type=int, default=128, help="images in the batch (default: %(default)s)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, float] = {}
    measured: dict[str, Json] = {}
    rows: list[tuple[str, ...]] = []
    peaks: list[float] = []
    for name in NETWORKS:
        bench = Bench.of(name, options.batch)
        found = times(bench, options)
        ratios = {kind: Ratio.of(found[kind], found[native]) for kind, native in AGAINST.items()}
        peak = memory(bench)
        peaks.append(peak["step"] / peak["widest"])
        figures[f"step_ratio_{name}"] = ratios["uniform"].median
        measured[name] = {
            "milliseconds": {kind: list(values) for kind, values in found.items()},
            "ratios": {kind: ratio.to_json() for kind, ratio in ratios.items()},
            "peak_bytes": dict(peak),
        }
        rows += [(f"{name}: {kind}", *ratio.cells()) for kind, ratio in ratios.items()]
        rows.append((f"{name}: peak MiB", *(f"{b / 2**20:.1f}" for b in peak.values()), f"{peaks[-1]:.3f}", ""))
    show(
        f"A step at {len(RATIOS)} widths, batch {options.batch}, over the same networks built natively",
        ("step", "ms", "native ms", "ratio", "quartiles"),
        rows,
    )
    conclude("step", options, figures={**figures, "step_memory_ratio": max(peaks)}, measured=measured)


if __name__ == "__main__":
    main()
