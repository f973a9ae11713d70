"""Errors of validation in words: which key, what was found, what was expected, and which key was probably meant."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

_KEY_ERRORS = ("extra_forbidden", "unexpected_keyword_argument")
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "dataclass_type": "keys and values",
    "dataclass_exact_type": "keys and values",
    "model_attributes_type": "keys and values",
}


def explain(
    error: ValidationError, values: Mapping[str, Any], *, kind: type[BaseModel], missing: str = "give it a value"
) -> str:
    """One line for the first fault that ``error`` found in ``values``.

    Args:
        error: Why they are no ``kind``.
        values: As they were read.
        kind: What they should be.
        missing: How a missing value is cured.
    """
    faults: dict[tuple[str, ...], list[Any]] = {}
    found = error.errors(include_url=False)
    for fault in found:
        if not _of_another_branch(fault, found):
            faults.setdefault(_path(fault, values), []).append(fault)
    if not faults:
        return _unknown_kind(found, values)
    path, of_path = next(iter(faults.items()))
    fault, key = of_path[0], ".".join(path)
    what = fault["type"]
    if what in _KEY_ERRORS:
        return f"unknown key {key} = {_shown(fault['input'])}; {_nearest(key, values, kind)}"
    if what == "missing":
        return f"{key} is missing; {missing}"
    if what == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if what.startswith("union_tag"):
        kinds = [tag.strip(" '") for tag in fault["ctx"].get("expected_tags", "").split(",") if tag]
        return _wrong_kind(key, fault["input"], kinds or ["a kind"])
    expected = " or ".join(dict.fromkeys(map(_expected, of_path)))
    return f"{key} is {_shown(fault['input'])}; expected {expected}"


def _of_another_branch(fault: Any, found: Sequence[Any]) -> bool:
    """Whether a fault was met while trying a type whose ``kind`` is not the one given."""
    wrong = [other["loc"][:-1] for other in found if other["type"] == "literal_error" and other["loc"][-1] == "kind"]
    return any(fault["loc"][: len(branch)] == branch for branch in wrong)


def _unknown_kind(found: Sequence[Any], values: Mapping[str, Any]) -> str:
    faults = [fault for fault in found if fault["type"] == "literal_error" and fault["loc"][-1] == "kind"]
    kinds = [fault["ctx"]["expected"].strip("'") for fault in faults]
    return _wrong_kind(".".join(_path(faults[0], values)[:-1]), {"kind": faults[0]["input"]}, kinds)


def _wrong_kind(section: str, value: Any, kinds: Sequence[str]) -> str:
    if not isinstance(value, Mapping) or "kind" not in value:
        return f"{section} is {_shown(value)}; expected keys and values, with kind one of {', '.join(kinds)}"
    near = difflib.get_close_matches(str(value["kind"]), kinds, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{section}.kind is {value['kind']!r}; expected one of {', '.join(kinds)}{hint}"


def _path(fault: Any, values: Any) -> tuple[str, ...]:
    """Keys that lead to a fault: pydantic's location without the names of the types that it tried."""
    path: list[str] = []
    location = fault["loc"]
    for index, part in enumerate(location):
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if listed or (isinstance(values, Mapping) and part in values):
            values = values[part]
        elif fault["type"] != "missing" or index + 1 < len(location):
            continue
        path.append(str(part))
    return tuple(path)


def _expected(fault: Any) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        near = difflib.get_close_matches(str(fault["input"]), str(context["expected"]).replace("'", "").split(), n=1)
        return f"{context['expected']}" + (f"; did you mean {near[0].strip(',')}?" if near else "")
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    message = str(fault["msg"])
    return message[len("Input should be ") :] if message.startswith("Input should be ") else f"otherwise: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(key: str, values: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """The valid keys most like ``key``: by their whole name, or by their last part anywhere."""
    known = list(keys_of(kind, values))
    last = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    near += [name for name in known if difflib.get_close_matches(last, [name.rpartition(".")[2]], cutoff=0.75)]
    near = list(dict.fromkeys(near))[:3]
    if near:
        return f"the nearest valid key is {near[0]}" + (f" (or {', '.join(near[1:])})" if near[1:] else "")
    section = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == section]
    return f"expected one of {', '.join(beside or known)}"


def keys_of(kind: Any, values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of every key that ``kind`` takes; where ``values`` choose a kind of section, only that one's."""
    for name, annotation in _fields(kind).items():
        yield prefix + name
        inner = values.get(name) if isinstance(values, Mapping) else None
        for section in _sections(annotation, inner):
            if isinstance(inner, list):
                for index, each in enumerate(inner):
                    yield from keys_of(section, each, f"{prefix}{name}.{index}.")
            else:
                yield from keys_of(section, inner, f"{prefix}{name}.")


def _fields(kind: Any) -> dict[str, Any]:
    names = kind.model_fields if issubclass(kind, BaseModel) else [field.name for field in fields(kind)]
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _sections(annotation: Any, values: Any) -> list[Any]:
    """Models and dataclasses that an annotation admits; of several, those of the kind that ``values`` name."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _sections(get_args(annotation)[0], values)
    if origin is tuple and isinstance(values, list):
        return _sections(get_args(annotation)[0], None)
    if origin in (Union, UnionType):
        found = [section for part in get_args(annotation) for section in _sections(part, values)]
        chosen = values.get("kind") if isinstance(values, Mapping) else None
        return [section for section in found if _kind(section) == chosen] or found
    return [annotation] if isinstance(annotation, type) and _is_section(annotation) else []


def _is_section(kind: type) -> bool:
    return issubclass(kind, BaseModel) or is_dataclass(kind)


def _kind(section: Any) -> str | None:
    annotation = get_type_hints(section).get("kind")
    return get_args(annotation)[0] if get_origin(annotation) is Literal else None
