"""Networks that make images larger, by name."""

from typing import Literal

from torch import nn

from slimmable.errors import RecipeError
from slimmable.models.wdsr import Variant, wdsr
from slimmable.models.zoo import build_model

Scale = Literal[2, 3, 4]

_VARIANTS: dict[str, Variant] = {"wdsr_a": "A", "wdsr_b": "B"}


def build_upscaler(name: str, *, scale: Scale, width: float | None = None, blocks: int | None = None) -> nn.Module:
    """The network called ``name`` that makes images ``scale`` times larger.

    Args:
        name: ``wdsr_a`` or ``wdsr_b``, see :func:`slimmable.models.wdsr`; or ``module:function`` for a function of the
            user's own, which returns a network of this scale.
        scale: How many times larger its output is.
        width: Multiplier of every channel count, for those that take it.
        blocks: Number of blocks of a WDSR.

    Returns:
        Network from ``(B, 3, H, W)`` to ``(B, 3, scale H, scale W)`` with values between 0 and 1, freshly initialised.

    Raises:
        RecipeError: Nothing has that name, or it does not take the options.

    >>> sum(each.numel() for each in build_upscaler("wdsr_b", scale=2, width=0.25, blocks=1).parameters())
    8772
    """
    if name in _VARIANTS:
        options = {key: value for key, value in {"width": width, "blocks": blocks}.items() if value is not None}
        return wdsr(scale, variant=_VARIANTS[name], **options)
    if ":" not in name:
        raise RecipeError(
            f"there is no network {name!r} that makes images larger; expected {', '.join(_VARIANTS)} or module:function"
        )
    if blocks is not None:
        raise RecipeError(f"blocks={blocks} goes with {' and '.join(_VARIANTS)}; leave it out for {name}")
    return build_model(name, width=width).model
