"""How well the latency model tells widths that it has not seen.

torchvision's MobileNetV2 is timed whole, one image, at random widths that differ from layer to layer; a model is fitted
to most of them, and its error stated on the others, which were timed among them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from common import conclude, parser, show, start_over_with_tuned_malloc

from slimmable.recipes.profiling import Profile, ProfileSettings, named_network, profile, uniform_widths
from slimmable.record import Json

NETWORK = "torchvision:mobilenet_v2"


def main() -> None:
    """Run the benchmark."""
    start_over_with_tuned_malloc()
    command = parser(__doc__, rounds=21)
    command.add_argument("--size", type=int, default=224, help="side of the image in pixels (default: %(default)s)")
    command.add_argument("--count", type=int, default=200, help="random widths to fit (default: %(default)s)")
    command.add_argument("--held-out", type=int, default=50, help="random widths to tell (default: %(default)s)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net, size = named_network(NETWORK, input_size=(3, options.size, options.size), options={})
    settings = ProfileSettings(
        count=options.count, held_out=options.held_out, rounds=options.rounds, clock=options.clock
    )
    named = uniform_widths(net.space)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = profile(net, size, Path(folder, "latency.json"), settings=settings, named=named)
    seconds = time.perf_counter() - began
    told = found.model([each.widths for each in named])
    show(
        f"{NETWORK}, one image of {options.size} pixels",
        ("uniform width", "ms", "quartiles", "model"),
        [
            (label, f"{timing.milliseconds:.2f}", f"{timing.low:.2f} .. {timing.high:.2f}", f"{own:.2f}")
            for (label, timing), own in zip(found.named.items(), told, strict=True)
        ],
    )
    figures = {"mape": found.model.error, "median_error": found.median_error, "seconds": seconds}
    conclude("latency", options, figures=figures, measured=measured(found))


def measured(found: Profile) -> dict[str, Json]:
    """The timings with names, every error in percent, the device, and how many terms the model has."""
    return {
        "network": NETWORK,
        "named": {label: timing.to_json() for label, timing in found.named.items()},
        "errors_percent": [round(error, 4) for error in found.errors],
        "device": dict(found.model.device),
        "terms": len(found.model.terms),
    }


if __name__ == "__main__":
    main()
