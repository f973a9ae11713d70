"""Experiments completely described, and the one room that joins data, training, calibration and evaluation."""

from slimmable.recipes.config import Recipe
from slimmable.recipes.folder import OpenRun, open_run
from slimmable.recipes.reading import read_recipe, to_yaml
from slimmable.recipes.registry import RECIPES, recipe
from slimmable.recipes.run import run
from slimmable.recipes.subnetwork import open_subnetwork, write_subnetwork

__all__ = [
    "RECIPES",
    "OpenRun",
    "Recipe",
    "open_run",
    "open_subnetwork",
    "read_recipe",
    "recipe",
    "run",
    "to_yaml",
    "write_subnetwork",
]
