"""Building a network from its name: ours, torchvision's, timm's, or a user's own function."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.models.digits_cnn import digits_cnn
from slimmable.models.mobilenet_v1 import mobilenet_v1, mobilenet_v1_cifar
from slimmable.models.mobilenet_v2 import mobilenet_v2
from slimmable.models.mobilenet_v3 import mobilenet_v3_large
from slimmable.models.resnet50 import resnet50
from slimmable.models.resnet_cifar import resnet_cifar
from slimmable.models.shufflenet_v1 import shufflenet_v1
from slimmable.models.torchvision_names import torchvision_model, torchvision_names
from slimmable.models.transformers_names import transformers_model
from slimmable.models.wdsr import wdsr

InputSize = tuple[int, ...]


class BuiltModel(NamedTuple):
    """A network and the size of one of its inputs: channels, height, width; a clip has frames after its channels."""

    model: nn.Module
    input_size: InputSize


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A network of this library: its builder, and the size of its input.

    The builder takes ``width``, and ``num_classes`` where the network classifies.
    """

    build: Callable[..., nn.Module]
    input_size: InputSize


MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "digits_cnn": ModelEntry(build=digits_cnn, input_size=(1, 8, 8)),
        "mobilenet_v1": ModelEntry(build=mobilenet_v1, input_size=(3, 224, 224)),
        "mobilenet_v1_cifar": ModelEntry(build=mobilenet_v1_cifar, input_size=(3, 32, 32)),
        "mobilenet_v2": ModelEntry(build=mobilenet_v2, input_size=(3, 224, 224)),
        "mobilenet_v3_large": ModelEntry(build=mobilenet_v3_large, input_size=(3, 224, 224)),
        "resnet20": ModelEntry(build=partial(resnet_cifar, 20), input_size=(3, 32, 32)),
        "resnet32": ModelEntry(build=partial(resnet_cifar, 32), input_size=(3, 32, 32)),
        "resnet44": ModelEntry(build=partial(resnet_cifar, 44), input_size=(3, 32, 32)),
        "resnet56": ModelEntry(build=partial(resnet_cifar, 56), input_size=(3, 32, 32)),
        "resnet50": ModelEntry(build=resnet50, input_size=(3, 224, 224)),
        "shufflenet_v1": ModelEntry(build=shufflenet_v1, input_size=(3, 224, 224)),
        "wdsr_a_x2": ModelEntry(build=partial(wdsr, 2, variant="A"), input_size=(3, 48, 48)),
        "wdsr_a_x3": ModelEntry(build=partial(wdsr, 3, variant="A"), input_size=(3, 48, 48)),
        "wdsr_a_x4": ModelEntry(build=partial(wdsr, 4, variant="A"), input_size=(3, 48, 48)),
        "wdsr_b_x2": ModelEntry(build=partial(wdsr, 2, variant="B"), input_size=(3, 48, 48)),
        "wdsr_b_x3": ModelEntry(build=partial(wdsr, 3, variant="B"), input_size=(3, 48, 48)),
        "wdsr_b_x4": ModelEntry(build=partial(wdsr, 4, variant="B"), input_size=(3, 48, 48)),
    }
)
"""This library's networks by name, as ``slimmable:NAME`` takes them."""

THEIRS = frozenset({"mobilenet_v2", "mobilenet_v3_large", "resnet50"})
"""Those of our names that torchvision has too: alone they are torchvision's network, which has trained weights."""


def build_model(
    name: str,
    *,
    num_classes: int | None = None,
    width: float | None = None,
    dropout: float | None = None,
    pretrained: bool = False,
) -> BuiltModel:
    """Network called ``name``, with the size of its input.

    ``slimmable:NAME``, ``torchvision:NAME``, ``timm:NAME`` and ``transformers:CLASS`` (a class in its default
    configuration) say whose network it is; ``module:function`` calls a function of the user's own (found from the
    working directory or the installed packages) that returns a network, or a network and its ``(C, H, W)``. A name
    alone is this library's, unless torchvision or timm has it too; else torchvision's, else timm's.

    Args:
        name: What to build.
        num_classes: Size of the output; ``None`` is the network's own default.
        width: Multiplier of every channel count, for networks that are built at several; ``None`` is the default.
        dropout: Share of the last layer's inputs that dropout sets to zero, for networks of this library, of timm or of
            the user that take it; ``None`` is the network's own.
        pretrained: Load the trained weights that torchvision or timm offer. With another ``num_classes`` the last layer
            is new.

    Returns:
        The network, in training mode, and its input size: (3, 224, 224) where a user's function does not say.

    Raises:
        RecipeError: Nothing has that name, or it cannot be built with these options.
        DataError: Trained weights cannot be fetched.
        MissingDependencyError: The package that holds it is not installed.

    >>> built = build_model("digits_cnn", width=0.25)
    >>> built.input_size
    (1, 8, 8)
    """
    options = {"num_classes": num_classes, "width": width, "dropout": dropout}
    options = {key: value for key, value in options.items() if value is not None}
    origin, _, rest = name.partition(":")
    if origin == "slimmable" and rest:
        return _own(rest, options, pretrained)
    if name in MODELS and name not in THEIRS:
        return _own(name, options, pretrained)
    if origin == "torchvision" and rest:
        return _torchvision(_module("torchvision", wanted_by=name), rest, options, pretrained)
    if origin == "timm" and rest:
        return _timm(_module("timm", wanted_by=name), rest, options, pretrained)
    if origin == "transformers" and rest:
        return _transformers(_module("transformers", wanted_by=name, extra="huggingface"), rest, options, pretrained)
    if rest:
        return _function(name, options, pretrained)
    torchvision, timm = _optional("torchvision"), _optional("timm")
    if torchvision is not None and name in torchvision.models.list_models():
        return _torchvision(torchvision, name, options, pretrained)
    if timm is not None and timm.is_model(name):
        return _timm(timm, name, options, pretrained)
    known = _own_names()
    known += torchvision_names(torchvision) if torchvision is not None else []
    known += timm.list_models() if timm is not None else []
    absent = [package for package, found in (("torchvision", torchvision), ("timm", timm)) if found is None]
    hint = f" Not installed, so not searched: {', '.join(absent)}." if absent else ""
    raise _unknown(name, known, "model:function for a network of your own" + hint)


def _own(name: str, options: dict[str, Any], pretrained: bool) -> BuiltModel:
    if name not in MODELS:
        raise _unknown(name, list(MODELS), "a name of slimmable.models.MODELS")
    if pretrained:
        raise RecipeError(f"pretrained=true: {name!r} has no published weights here; train it, or name another.")
    _require_taken(name, MODELS[name].build, options)
    return BuiltModel(MODELS[name].build(**options), MODELS[name].input_size)


def _own_names() -> list[str]:
    """Our networks as the shortest text that names them."""
    return [f"slimmable:{name}" if name in THEIRS else name for name in MODELS]


def _require_taken(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Pass if a function takes the options.

    Raises:
        RecipeError: It does not.
    """
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise RecipeError(
            f"model {name!r} was asked for {options}, which the function does not take: {error}."
        ) from error


def _torchvision(torchvision: ModuleType, name: str, options: dict[str, Any], pretrained: bool) -> BuiltModel:
    names = torchvision_names(torchvision)
    _require_no_dropout(name, options)
    if name in names:
        chosen = {"num_classes": None, "width": None, **options}
        return BuiltModel(*torchvision_model(torchvision, name, **chosen, pretrained=pretrained))
    if name in torchvision.models.list_models():
        raise RecipeError(
            f"torchvision's {name!r} does not take a batch of images alone; expected a network for classification, "
            "segmentation or video. Name a function that builds the part to be slimmed, such as its backbone: "
            "module:function."
        )
    raise _unknown(name, names, "a name of torchvision.models")


def _require_no_dropout(name: str, options: dict[str, Any]) -> None:
    if "dropout" in options:
        raise RecipeError(
            f"dropout={options['dropout']}: {name!r} has its own; it can be chosen for networks of this library and of "
            "timm. Leave it out, or name a function of yours."
        )


def _timm(timm: ModuleType, name: str, options: dict[str, Any], pretrained: bool) -> BuiltModel:
    if not timm.is_model(name):
        raise _unknown(name, timm.list_models(), "a name of timm.list_models()")
    if "width" in options:
        raise RecipeError(
            f"width={options['width']}: timm's {name!r} is built at one width only. Leave width out and let convert() "
            "vary it."
        )
    if "dropout" in options:
        options = {**options, "drop_rate": options["dropout"]}
        del options["dropout"]
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise DataError(
            f"trained weights of timm's {name!r} cannot be fetched ({error}); check the connection, or leave "
            "pretrained out."
        ) from error
    channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    return BuiltModel(model, (channels, height, width))


def _transformers(transformers: ModuleType, name: str, options: dict[str, Any], pretrained: bool) -> BuiltModel:
    if "width" in options:
        raise RecipeError(
            f"width={options['width']}: {name!r} of transformers is built at one width only. Leave width out and let "
            "convert() vary it."
        )
    _require_no_dropout(name, options)
    num_classes = options.get("num_classes")
    return BuiltModel(*transformers_model(transformers, name, num_classes=num_classes, pretrained=pretrained))


def _function(name: str, options: dict[str, Any], pretrained: bool) -> BuiltModel:
    module_name, _, function_name = name.partition(":")
    if pretrained:
        options = {**options, "pretrained": True}
    with _working_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise RecipeError(
                f"model {name!r}: no module {error.name!r} in the working directory or among installed packages; "
                "expected slimmable:NAME, torchvision:NAME, timm:NAME or module:function."
            ) from error
        function = vars(module).get(function_name)
        if not callable(function):
            public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise _unknown(function_name, public, f"a function of module {module_name!r}")
        _require_taken(name, function, options)
        found = function(**options)
    model, size = found if isinstance(found, tuple) and len(found) == 2 else (found, (3, 224, 224))
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"model {name!r} returned a {type(model).__name__}; expected a torch.nn.Module, or a pair of it and its "
            "(channels, height, width)."
        )
    return BuiltModel(model, size)


def _module(package: str, *, wanted_by: str, extra: str = "vision") -> ModuleType:
    found = _optional(package)
    if found is None:
        raise MissingDependencyError(
            f"model {wanted_by!r} needs {package}, which is not installed: pip install 'slimmable[{extra}]'"
        )
    return found


def _optional(package: str) -> ModuleType | None:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        return None


def _unknown(name: str, known: list[str], expected: str) -> RecipeError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return RecipeError(
        f"no model is called {name!r}; expected {expected}. "
        + (f"Nearest names: {', '.join(near)}." if near else f"This library's names: {', '.join(_own_names())}.")
    )


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
