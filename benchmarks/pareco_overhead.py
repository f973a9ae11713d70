"""What PareCO adds to the time of Slim training, for as many updates and widths as in the paper.

In the paper's CIFAR runs the history grows by two widths every 313 steps to 1,000 in all, of ResNet-20 with six width
parameters, batches of 128. Measured here: one sandwich step of four widths; running histories of several sizes on a
batch (with what they share computed once, and separately); proposing two widths from each history, fits of the Gaussian
process included at the rate at which they happen. Both are interpolated over the history's growth and summed over the
500 searches: ``overhead`` is that sum over the time of the 156,500 steps. ``overhead_separate`` is the same without
sharing, ``proposals`` the part that proposals take.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from common import conclude, interleaved, parser, show, start_over_with_tuned_malloc

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.cost.costs import closed_form
from slimmable.models import resnet_cifar
from slimmable.record import Json
from slimmable.search import Acquisition, Surrogate
from slimmable.tasks import ClassificationTask, ImageDataSettings
from slimmable.tasks.images.memory import ImageBatch
from slimmable.train import batch_losses, train_step

STEPS, M = 313, 2
TIES = [["blocks.[012].conv1"], ["blocks.[345].conv1"], ["blocks.[678].conv1"]]


def separate(net: SlimmableModel, batch: ImageBatch, widths_list: Sequence[Widths], task: ClassificationTask) -> None:
    """Each width of a history by itself."""
    for widths in widths_list:
        batch_losses(net, batch, task=task, widths_list=[widths])


def proposals(
    net: SlimmableModel, sizes: Sequence[int], generator: random.Random, read: Callable[[], float]
) -> dict[int, float]:
    """Seconds of proposing two widths from histories of several sizes, fits spread over the searches they serve."""
    cost = closed_form(net, "macs")
    seconds: dict[int, float] = {}
    for size in sizes:
        surrogate = Surrogate(net.space)
        history: dict[Widths, None] = {}
        while len(history) < size:
            history[net.space.random(generator)] = None
        known = list(history)
        losses = [float(3 - 2e-3 * sum(widths.channels) + 0.05 * generator.gauss(0, 1)) for widths in known]
        began = read()
        Acquisition().propose(surrogate, cost, known, losses, count=M, seed="first")  # fits
        middle = read()
        Acquisition().propose(surrogate, cost, known, losses, count=M, seed="second")
        end = read()
        fit = max((middle - began) - (end - middle), 0.0)
        # A fit is due when the history has grown by a share of itself.
        seconds[size] = (end - middle) + fit * M / ((surrogate.refit - 1) * size)
    return seconds


def main() -> None:
    """Measure; see ``--help``."""
    start_over_with_tuned_malloc()
    command = parser(__doc__, rounds=5)
    command.add_argument("--batch-size", type=int, default=128)
    command.add_argument("--divisor", type=int, default=8, help="of the widths (the paper has 1)")
    command.add_argument("--widths", type=int, default=1000, help="that the history reaches (the paper has 1000)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = random.Random(0)
    task = ClassificationTask(ImageDataSettings(), network=lambda: resnet_cifar(20))
    images = torch.randn(options.batch_size, 3, 32, 32)
    net = slimmable.convert(resnet_cifar(20), images[:2], min_ratio=0.316, divisor=options.divisor, tie=TIES).train()
    if options.divisor % 8 == 0:
        cast(Any, net).to(memory_format=torch.channels_last)  # the stub of nn.Module.to knows no memory format
        images = images.to(memory_format=torch.channels_last)
    batch = ImageBatch(images, torch.arange(options.batch_size) % 10)
    sizes = (*(size for size in (20, 100, 300) if size < options.widths), options.widths)
    alone = sizes[:2][-1]
    # A history repeats itself where few widths exist, as it does in training.
    drawn = [net.space.random(generator) for _ in range(options.widths)]
    step_widths = [net.space.largest, net.space.random(generator), net.space.random(generator), net.space.smallest]
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        train_step(net, batch, task=task, widths_list=step_widths, distill=True)
        optimizer.step()

    runs: dict[str, Callable[[], object]] = {"step": step}
    read = time.perf_counter if options.clock == "wall" else time.process_time
    for size in sizes[:-1]:
        runs[f"shared {size}"] = lambda size=size: batch_losses(net, batch, task=task, widths_list=drawn[:size])
    runs[f"separate {alone}"] = lambda: separate(net, batch, list(dict.fromkeys(drawn[:alone])), task)
    times = {
        name: float(np.median(each)) / 1e3
        for name, each in interleaved(runs, rounds=options.rounds, clock=options.clock, warm_up=1).items()
    }
    began = read()
    batch_losses(net, batch, task=task, widths_list=drawn)
    times[f"shared {options.widths}"] = read() - began
    proposing = proposals(net, sizes, generator, read)
    history = np.arange(M, options.widths + 1, M)
    shared = np.interp(history, (0, *sizes), (0.0, *(times[f"shared {size}"] for size in sizes)))
    distinct = np.array([len(set(drawn[:size])) for size in history])
    separated = distinct * times[f"separate {alone}"] / len(set(drawn[:alone]))
    proposed = np.interp(history, sizes, [proposing[size] for size in sizes])
    training = len(history) * STEPS * times["step"]
    show(
        "seconds",
        ("history", "run on a batch", "proposal"),
        [(str(size), f"{times[f'shared {size}']:.3f}", f"{proposing[size]:.3f}") for size in sizes],
    )
    figures = {
        "overhead": float((shared + proposed).sum() / training),
        "overhead_separate": float((separated + proposed).sum() / training),
        "proposals": float(proposed.sum() / training),
        "step_s": times["step"],
        "distinct": float(distinct[-1]),
    }
    measured: dict[str, Json] = {
        "seconds": dict(times),
        "proposals": {str(size): value for size, value in proposing.items()},
    }
    conclude("pareco_overhead", options, figures=figures, measured=measured)


if __name__ == "__main__":
    main()
