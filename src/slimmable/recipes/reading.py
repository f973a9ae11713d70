"""From a name, a YAML file and ``key=value`` overrides to a recipe, and back to YAML."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from slimmable.errors import RecipeError
from slimmable.recipes.config import Recipe
from slimmable.recipes.explain import explain
from slimmable.recipes.registry import RECIPES, recipe

Kind = TypeVar("Kind", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-4`` is a number, as in version 1.2 of the language, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; PyYAML itself would let the last of two equal keys win."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise RecipeError(f"key {key!r} stands twice in one section (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called ``source``, or written in the YAML file ``source``, with changes.

    A file holds a whole configuration, or ``recipe: NAME`` and the keys in which it differs. Where a change sets
    another ``kind`` (of method, schedule, optimizer), the rest of that section starts from its defaults.

    Args:
        source: A name of :data:`slimmable.recipes.RECIPES`, or the path of a YAML file.
        overrides: ``key=value`` texts: dotted keys, values in YAML.

    Raises:
        RecipeError: There is no such recipe or file, or a key or value does not belong: the message names the key, what
            was found, what was expected and the nearest valid keys.

    >>> read_recipe("classification/smoke", ["train.lr=5e-2"]).train.lr
    0.05
    """
    changes: dict[str, Any] = {}
    for text in overrides:
        changes = merged(changes, _override(text))
    return validated(merged(_source(str(source)), changes))


def validated(values: Mapping[str, Any]) -> Recipe:
    """A recipe from nested mappings.

    Raises:
        RecipeError: The first key or value that does not belong.
    """
    return checked(Recipe, values, missing="give it a value, or start from a recipe that has one (recipe: NAME)")


def checked(kind: type[Kind], values: Mapping[str, Any], *, missing: str = "give it a value") -> Kind:
    """A ``kind`` from nested mappings, as YAML gives them.

    Args:
        kind: What they describe.
        values: The mappings.
        missing: How a missing value is cured.

    Raises:
        RecipeError: The first key or value that does not belong.
    """
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"found a value of no known kind: {error}; quote dates and other texts") from error
    try:
        # Read as JSON: strict about text and numbers, and yet a list serves as a tuple.
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(explain(error, values, kind=kind, missing=missing)) from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The keys and values in a YAML file.

    Args:
        path: The file.
        what: What it should hold, for errors, such as ``a recipe``.

    Raises:
        RecipeError: It cannot be read, is not YAML, or holds something else.
    """
    try:
        values = _parsed(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{path} cannot be read as {what}: {reason}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {values!r}; expected {what}: keys and values")
    return values


def to_yaml(found: Recipe) -> str:
    """The complete recipe, every key written out; :func:`read_recipe` reads it back."""
    return yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` written over it, section by section; a list or a value is replaced as a whole.

    >>> merged({"train": {"lr": 1, "epochs": 2}}, {"train": {"lr": 3}})
    {'train': {'lr': 3, 'epochs': 2}}
    """
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and not _of_another_kind(before, value):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result


def _of_another_kind(before: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    return "kind" in changes and "kind" in before and changes["kind"] != before["kind"]


def _source(name: str) -> dict[str, Any]:
    if name in RECIPES:
        return recipe(name).model_dump(mode="json")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        recipe(name)
    values = read_mapping(path, "a recipe")
    if "recipe" not in values:
        return values
    parent = values.pop("recipe")
    if not isinstance(parent, str):
        raise RecipeError(f"recipe is {parent!r} in {path}; expected the name of a recipe, such as digits/us-net")
    return merged(recipe(parent).model_dump(mode="json"), values)


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
        raise RecipeError(f"{text!r} is no change of a recipe; expected key=value, such as train.epochs=10")
    nested: Any = _parsed(value, where=f"the value of {key}")
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _parsed(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe loader: plain values only
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where} is not YAML: {problem}") from error
