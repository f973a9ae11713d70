"""Boxes, masks, keypoints and pixels at four widths: the recipes on drawn shapes, one after the other.

Each recipe is trained in a folder of its own and evaluated on its 100 test images; nothing is downloaded. Figures,
costs, the time it took (on the wall, and of the processor, which other programs do not change) and the environment are
written as JSON after every recipe; what the file says of other recipes stays.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from slimmable.recipes import recipe, run
from slimmable.record import atomic_write_json, environment

KINDS = ("detection", "instance-segmentation", "keypoints", "segmentation")
SHOWN = ("ap", "ap50", "mask_ap50", "keypoint_ap50", "miou")
PACKAGES = ("torch", "torchvision", "faster-coco-eval", "numpy")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "detection.json"

console = Console()


def measured(kind: str, folder: Path) -> dict[str, Any]:
    """Figures by width of ``kind/shapes``, and how long it took to train and evaluate."""
    name = f"{kind}/shapes"
    chosen = recipe(name)
    wall, processor = time.perf_counter(), time.process_time()
    rows = run(chosen, folder / kind, device="cpu")
    return {
        "recipe": name,
        "network": chosen.task.network.model_dump(mode="json"),
        "method": chosen.method.kind,
        "epochs": chosen.train.epochs,
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "environment": environment(packages=PACKAGES, device="cpu", threads=torch.get_num_threads()),
        "widths": [
            {"ratio": float(row.label), "figures": row.figures, "macs": row.macs, "parameters": row.parameters}
            for row in rows
        ],
    }


def show(results: list[dict[str, Any]]) -> None:
    """A table of the figures, and one line of them."""
    table = Table("task", "width", *SHOWN, "MACs", "seconds")
    for result in results:
        for row in result["widths"]:
            figures = [f"{row['figures'][name]:.3f}" if name in row["figures"] else "" for name in SHOWN]
            table.add_row(
                result["recipe"], str(row["ratio"]), *figures, f"{row['macs'] / 1e6:.0f} M", str(result["seconds"])
            )
    console.print(table)
    line = []
    for result in results:
        main = next(name for name in reversed(SHOWN) if name in result["widths"][0]["figures"])
        kind, ends = result["recipe"].partition("/")[0], (result["widths"][0], result["widths"][-1])
        line += [f"{kind}_{main}@{row['ratio']}={row['figures'][main]:.3f}" for row in ends]
    console.print(" ".join(line), soft_wrap=True)


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND", help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    if options.results.exists():
        results = {each["recipe"]: each for each in json.loads(options.results.read_text(encoding="utf-8"))["tasks"]}
    for kind in options.kinds:
        found = measured(kind, options.folder)
        results[found["recipe"]] = found
        atomic_write_json(options.results, {"schema": 1, "tasks": list(results.values())})
    show([results[f"{kind}/shapes"] for kind in options.kinds])


if __name__ == "__main__":
    main()
