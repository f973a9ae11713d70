"""Networks of Hugging Face's transformers by the name of their class, with the class's default configuration."""

import inspect
from types import ModuleType
from typing import Any

from torch import nn

from slimmable.errors import RecipeError


def transformers_model(
    transformers: ModuleType, name: str, *, num_classes: int | None, pretrained: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """Network of a class such as ``ViTForImageClassification``, freshly initialised, and its ``(C, H, W)``.

    Args:
        transformers: The package.
        name: Name of a class with a configuration.
        num_classes: Size of the output; ``None`` is the configuration's default.
        pretrained: Whether trained weights are asked for.

    Raises:
        RecipeError: There is no such class, or trained weights are asked for, which a class name does not choose.
    """
    cls = getattr(transformers, name, None)
    configuration = getattr(cls, "config_class", None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)) or configuration is None:
        raise RecipeError(
            f"model 'transformers:{name}': expected the name of a class of transformers that has a configuration, "
            "such as transformers:ViTForImageClassification"
        )
    if pretrained:
        raise RecipeError(
            f"pretrained=true: 'transformers:{name}' names a class, of which there are many trained networks; "
            "name a function of your own that returns from_pretrained(...): module:function"
        )
    options: dict[str, Any] = {} if num_classes is None else {"num_labels": num_classes}
    config = configuration(**options)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return cls(config), (getattr(config, "num_channels", 3), height, width)
