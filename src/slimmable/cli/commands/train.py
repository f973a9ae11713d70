"""``slimmable train``."""

import shlex
import sys
from pathlib import Path

from slimmable.cli.main import INTERRUPTED
from slimmable.cli.parser import Options
from slimmable.cli.tables import write, write_figures
from slimmable.recipes import read_recipe, run
from slimmable.recipes.folder import NETWORK, RECIPE


def command(options: Options) -> int:
    """Carry out a recipe and show what every width is worth."""
    recipe = read_recipe(options.recipe, options.changes)
    folder = Path(options.folder or Path("runs", _plain(options.recipe)))
    try:
        rows = run(recipe, folder, resume=options.resume, device=options.device)
    except KeyboardInterrupt:
        again = shlex.join(["slimmable", "train", str(folder / RECIPE), "--folder", str(folder), "--resume"])
        left = f"to go on: {again}" if (folder / RECIPE).exists() else "nothing was written yet: start it again"
        print(f"interrupted; {left}", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    write_figures(rows)
    write(f"the network and its figures are in {folder} ({NETWORK}, evaluation.json)")
    return 0


def _plain(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix in (".yaml", ".yml") else name.replace("/", "-")
