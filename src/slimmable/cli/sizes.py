"""Sizes as people write them."""

import re

from slimmable.errors import RecipeError


def input_size(text: str) -> tuple[int, ...]:
    """The size of one input, without the batch.

    Raises:
        RecipeError: The text has another form.

    >>> input_size("3,224,224"), input_size("1x8x8")
    ((3, 224, 224), (1, 8, 8))
    """
    if not re.fullmatch(r"[1-9]\d*([,x][1-9]\d*)*", text):
        raise RecipeError(
            f"--input-size {text} is no size; expected whole numbers such as 3,224,224, without the batch"
        )
    return tuple(map(int, re.split("[,x]", text)))
