"""torchvision's networks by name: images, segmentation, video."""

from types import ModuleType
from typing import Any

from torch import nn

from slimmable.errors import DataError, RecipeError

OWN_WIDTH = frozenset({"mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"})
"""Networks with a ``width_mult`` of their own."""

AUXILIARY = frozenset({"googlenet", "inception_v3"})
"""Networks that return more than logits in training unless told otherwise."""

FRAMES = 16


def torchvision_names(torchvision: ModuleType) -> list[str]:
    """Names of the networks that take a batch of images or of clips: no detection, no optical flow, no 8-bit."""
    models = torchvision.models
    return [name for room in (models, models.segmentation, models.video) for name in models.list_models(module=room)]


def torchvision_model(
    torchvision: ModuleType, name: str, *, num_classes: int | None, width: float | None, pretrained: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """Network and the size of one input: ``(3, side, side)``, or ``(3, frames, side, side)`` of a clip.

    Args:
        torchvision: The package.
        name: One of :func:`torchvision_names`.
        num_classes: Size of the output; ``None`` is the network's own.
        width: Multiplier of every channel count; ``None`` is the network's own.
        pretrained: Load the trained weights; with another ``num_classes`` the last layer is new.

    Raises:
        RecipeError: The network cannot be built with these options.
        DataError: The trained weights cannot be fetched.
    """
    models = torchvision.models
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if width is not None:
        if name not in OWN_WIDTH:
            raise RecipeError(
                f"width={width}: torchvision's {name!r} is built at one width only; those built at any are "
                f"{', '.join(sorted(OWN_WIDTH))}. Leave width out and let convert() vary it."
            )
        if pretrained and width != 1:
            raise RecipeError(f"pretrained=true with width={width}: {name!r} has trained weights at width 1 only.")
        options["width_mult"] = width
    if name in AUXILIARY:
        options |= {"aux_logits": False, "init_weights": not pretrained, "transform_input": pretrained}
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    weights = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, **options)
    if pretrained:
        try:
            state = weights.get_state_dict(progress=False)
        except OSError as error:
            raise DataError(
                f"trained weights of {name!r} cannot be fetched ({error}); expected them in torch's cache or at "
                f"{weights.url}. Check the connection, or leave pretrained out."
            ) from error
        _load_all_but_last(model, state, name)
    preset = weights.transforms.keywords
    side = preset.get("crop_size", preset.get("resize_size", 224))
    if name in models.list_models(module=models.video):
        return model, (3, FRAMES, *side)
    return model, (3, side, side)


def _load_all_but_last(model: nn.Module, state: dict[str, Any], name: str) -> None:
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    fresh = sorted(own.keys() - fitting.keys())
    if len(fresh) > 2:
        raise RecipeError(
            f"pretrained=true: the weights of {name!r} may differ in the last layer only, yet {len(fresh)} tensors do, "
            f"{fresh[0]!r} first. Keep the network's own num_classes, or leave pretrained out."
        )
    model.load_state_dict(fitting, strict=False)
