"""Time of a forward pass and of a change of width.

A converted network at some width is compared with the plain one extracted there (batch norm not folded), both in
evaluation, without gradients, on one image: the least work per call, hence the most our own doing can weigh. Then a
network of some fifty groups is switched, to widths used before and to new ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from functools import partial

import torch
from common import Ratio, conclude, interleaved, parser, show, start_over_with_tuned_malloc
from torch import Tensor, nn
from torchvision import models

import slimmable
from slimmable import SlimmableModel
from slimmable.record import Json

NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet50": models.resnet50, "mobilenet_v2": models.mobilenet_v2}
RATIOS = (1.0, 0.5)
SWITCHED = models.regnet_y_400mf


def pairs(name: str, image_BCHW: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Both kinds of forward pass at every width, by name; they give the same output, bit for bit."""
    torch.manual_seed(0)
    net = slimmable.convert(NETWORKS[name]().eval(), image_BCHW)
    images = [torch.randn(4, *image_BCHW.shape[1:]) for _ in range(2)]
    runs: dict[str, Callable[[], Tensor]] = {}
    for ratio in RATIOS:
        widths = net.space.uniform(ratio)
        slimmable.calibrate(net, images, [widths])
        plain = net.extract(widths)
        with torch.no_grad(), net.at(widths):
            assert torch.equal(net(image_BCHW), plain(image_BCHW)), (name, ratio)

        def dynamic(widths: slimmable.Widths = widths) -> Tensor:
            net.set(widths)
            return net(image_BCHW)

        def extracted(plain: nn.Module = plain) -> Tensor:
            return plain(image_BCHW)

        runs[f"{name} x{ratio:g}"] = dynamic
        runs[f"{name} x{ratio:g}, extracted"] = extracted
    return runs


def forwards(options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of every forward pass, round by round."""
    image = torch.randn(1, 3, options.size, options.size)
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for name in NETWORKS:
            runs = pairs(name, image)
            found |= interleaved(runs, rounds=options.rounds, clock=options.clock, warm_up=4)
    return found


def switching(options: argparse.Namespace) -> tuple[SlimmableModel, dict[str, list[float]]]:
    """A network of some fifty groups, and the mean milliseconds of its changes of width, round by round."""
    net = slimmable.convert(SWITCHED().eval(), torch.randn(1, 3, 64, 64))
    generator = random.Random(0)
    used = [net.space.random(generator) for _ in range(8)]
    new: list[slimmable.Widths] = []
    runs = {"used before": (used, 100), "new": (new, 1)}

    def prepare(_name: str) -> None:
        new[:] = [net.space.random(generator) for _ in range(10)]
        for widths in used:
            net.set(widths)

    def switch(name: str) -> None:
        sequence, repeats = runs[name]
        for _ in range(repeats):
            for widths in sequence:
                net.set(widths)

    steps = {name: partial(switch, name) for name in runs}
    found = interleaved(steps, rounds=options.rounds, clock=options.clock, before=prepare)
    return net, {name: [took / (len(runs[name][0]) * runs[name][1]) for took in found[name]] for name in runs}


def main() -> None:
    """Run the benchmark."""
    start_over_with_tuned_malloc()
    command = parser(__doc__, rounds=31)
    command.add_argument("--size", type=int, default=224, help="side of the image in pixels (default: %(default)s)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    found = forwards(options)
    ratios = {kind: Ratio.of(found[kind], found[f"{kind}, extracted"]) for kind in found if "extracted" not in kind}
    net, switched = switching(options)
    switches = {kind: statistics.median(values) for kind, values in switched.items()}
    show(
        "One image, over the extracted network",
        ("forward pass", "ms", "extracted ms", "ratio", "quartiles"),
        [(kind, *ratio.cells()) for kind, ratio in ratios.items()],
    )
    show(
        f"Switching {SWITCHED.__name__}, {len(net.space.groups)} groups",
        ("to widths", "ms"),
        [(kind, f"{value:.4f}") for kind, value in switches.items()],
    )
    measured: dict[str, Json] = {
        "milliseconds": {kind: list(values) for kind, values in found.items()},
        "ratios": {kind: ratio.to_json() for kind, ratio in ratios.items()},
        "switch_milliseconds": {kind: list(values) for kind, values in switched.items()},
        "switched": {"network": SWITCHED.__name__, "groups": len(net.space.groups)},
    }
    figures = {
        "forward_ratio_max": max(ratio.median for ratio in ratios.values()),
        "switch_ms": switches["used before"],
        "new_switch_ms": switches["new"],
    }
    conclude("forward", options, figures=figures, measured=measured)


if __name__ == "__main__":
    main()
