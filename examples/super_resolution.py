"""One set of weights that makes photographs larger at nine widths, with and without in-place distillation.

Trains the recipe ``super-resolution/photos`` twice, on photographs that ship with scikit-image and scikit-learn,
measures both on held-out ones, and draws a piece of one of them: the small image, bicubic, the narrowest and the widest
network. Twice under ten minutes on two CPU cores; no download.
"""

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Tensor

from slimmable.recipes import OpenRun, open_run, read_recipe, run
from slimmable.recipes.figures import WidthFigures
from slimmable.record import Json, atomic_path, atomic_write_json, environment
from slimmable.tasks import SuperResolutionTask
from slimmable.tasks.patches.resample import scale_up

PIECE = (56, 32, 56)
"""Left, top and side in the small test image of what is drawn."""

ENLARGED = 2
"""Screen pixels for each pixel of the large image."""


def main() -> None:
    """Run the example; see ``--help``."""
    parser = argparse.ArgumentParser(description="Train a slimmable network that makes photographs larger.")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of the recipe, such as train.epochs=2")
    parser.add_argument("--recipe", default="super-resolution/photos")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--runs", type=Path, help="where the runs are kept; nowhere if not given")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/super-resolution.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/super-resolution.png"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        measure(options, options.runs or Path(temporary))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Train both networks in ``folder``, then write figures and picture."""
    rows: dict[str, list[WidthFigures]] = {}
    minutes: dict[str, float] = {}
    core_minutes: dict[str, float] = {}
    for name, distillation in (("distilled", "true"), ("labels", "false")):
        recipe = read_recipe(options.recipe, [*options.changes, f"train.distillation={distillation}"])
        began, worked = time.perf_counter(), time.process_time()
        rows[name] = run(recipe, folder / name, device="cpu")
        minutes[name] = (time.perf_counter() - began) / 60
        core_minutes[name] = (time.process_time() - worked) / 60
    show(rows)
    draw(open_run(folder / "distilled"), rows["distilled"], options.picture)

    bicubic = rows["distilled"][0].figures["bicubic_psnr_y"]
    gains = {name: [row.figures["psnr_y"] - bicubic for row in each] for name, each in rows.items()}
    figures: dict[str, Json] = {"bicubic_psnr_y": bicubic}
    for name, gain in gains.items():
        steps = [after - before for before, after in pairwise(gain)]
        figures[f"{name}_gain_narrowest"] = gain[0]
        figures[f"{name}_gain_widest"] = gain[-1]
        figures[f"{name}_gain_least"] = min(gain)
        figures[f"{name}_least_step"] = min(steps)
        figures[f"{name}_minutes"] = minutes[name]
        figures[f"{name}_core_minutes"] = core_minutes[name]
    record: dict[str, object] = {
        "benchmark": "super-resolution",
        "environment": environment(device="cpu", threads=torch.get_num_threads()),
        "recipe": read_recipe(options.recipe, options.changes).model_dump(mode="json"),
        "figures": figures,
        "widths": rows,
    }
    atomic_write_json(options.results, record)
    print(" ".join(f"{key}={value:.4g}" for key, value in figures.items()))


def show(rows: dict[str, list[WidthFigures]]) -> None:
    """Print what every width is worth."""
    table = Table("width", "million MACs", *(f"PSNR, {name}" for name in rows), title="Held-out photographs, luminance")
    for each in zip(*rows.values(), strict=True):
        values = [f"{row.figures['psnr_y']:.3f}" for row in each]
        table.add_row(each[0].label, f"{each[0].macs / 1e6:.0f}", *values)
    table.add_row("bicubic", "", *(f"{each[0].figures['bicubic_psnr_y']:.3f}" for each in rows.values()))
    Console().print(table)


def draw(opened: OpenRun, rows: list[WidthFigures], path: Path) -> None:
    """Draw a piece of the first test image as it was, small, and made larger in three ways."""
    net, task, *_ = opened
    assert isinstance(task, SuperResolutionTask)
    low, high = next(iter(task.test_batches()))
    panels: dict[str, Tensor] = {
        "small": low.repeat_interleave(task.scale, 2).repeat_interleave(task.scale, 3),
        "bicubic": scale_up(low, task.scale),
    }
    with torch.no_grad():
        for row in (rows[0], rows[-1]):
            with net.at(net.space.widths(row.widths)):
                panels[f"width {row.label}"] = task.upscale(net, low)
    panels["original"] = high
    left, top, side = (task.scale * each for each in PIECE)
    side = min(side, *high.shape[2:])
    shown, margin, line = ENLARGED * side, 8, 24
    sheet = Image.new("RGB", (len(panels) * (shown + margin) - margin, shown + line), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for place, (name, image) in enumerate(panels.items()):
        piece = image[0, :, top : top + side, left : left + side].clamp(0, 1).mul(255).round().byte()
        panel = Image.fromarray(piece.permute(1, 2, 0).numpy()).resize((shown, shown), Image.Resampling.NEAREST)
        at = place * (shown + margin)
        sheet.paste(panel, (at, line))
        pen.text((at, 2), name, fill="black", font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    main()
