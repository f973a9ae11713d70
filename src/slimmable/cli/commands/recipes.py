"""``slimmable recipes``."""

from collections.abc import Callable

from slimmable.cli.parser import Options
from slimmable.cli.tables import write, write_table
from slimmable.recipes import RECIPES, Recipe, read_recipe, to_yaml


def command(options: Options) -> int:
    """List the recipes, or show one as YAML."""
    if options.recipe:
        write(to_yaml(read_recipe(options.recipe)).rstrip())
        return 0
    rows = [[name, _summary(make)] for name, make in RECIPES.items()]
    write_table(["recipe", "what it does"], rows, left=2)
    return 0


def _summary(make: Callable[[], Recipe]) -> str:
    return (make.__doc__ or "").strip().partition("\n")[0].replace("``", "")
