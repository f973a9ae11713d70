"""Large images through a network in tiles, with the same result as in one piece."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from slimmable.errors import RecipeError

STEP = 8
"""Tiles begin at multiples of it, so that a network that halves its maps up to three times meets the same grid."""

TILE = 256
"""Side of a tile in pixels of the input."""

_LARGEST_PROBE = 512


def upscaled(net: nn.Module, images_BCHW: Tensor, *, scale: int, tile: int = TILE, reach: int | None = None) -> Tensor:
    """The network's output on images of any size, computed in tiles if they are larger than one.

    A tile is run with so much around it as its pixels depend on, which is cut off afterwards; where the image ends, the
    tile ends too. The result is that of the image in one piece, but for rounding: a network runs other kernels at other
    sizes.

    Args:
        net: From ``(B, 3, H, W)`` to ``(B, 3, scale H, scale W)``.
        images_BCHW: Any images.
        scale: How many times larger the output is.
        tile: Side of a tile in pixels of the input, a multiple of 8.
        reach: How far an output pixel sees, from :func:`reach_of`; None: as far as the image goes, so that it cannot be
            cut.

    Raises:
        RecipeError: ``tile`` is no multiple of 8.

    Cost:
        ``((tile + 2 reach) / tile)^2`` of one piece, in the memory of one tile.
    """
    if tile < STEP or tile % STEP:
        raise RecipeError(f"the tile is {tile} pixels; expected a multiple of {STEP}, such as {TILE}")
    height, width = images_BCHW.shape[2:]
    if reach is None or max(height, width) <= tile:
        return net(images_BCHW)
    margin = -(-reach // STEP) * STEP
    rows = []
    for top, bottom, above, below in _spans(height, tile, margin):
        row = []
        for left, right, before, after in _spans(width, tile, margin):
            part = net(images_BCHW[:, :, above:below, before:after])
            vertical, horizontal = slice(top - above, bottom - above), slice(left - before, right - before)
            row.append(part[:, :, _times(vertical, scale), _times(horizontal, scale)])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def reach_of(net: nn.Module, *, scale: int, channels: int = 3) -> int | None:
    """How many pixels of the input, to each side, an output pixel depends on at most; None if on all of them.

    Found by running a few not-a-number pixels through the network: whatever depends on them is none either. The widths
    and the mode of the network stay as they are.

    Args:
        net: From ``(B, channels, H, W)`` to images ``scale`` times larger.
        scale: How many times larger.
        channels: Of its input.

    Cost:
        Forward passes on one image of up to 512 pixels a side.

    >>> reach_of(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 5, padding=2)), scale=1)
    3
    >>> reach_of(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1)), scale=1) is None
    True
    """
    like = next(net.parameters())
    side = 64
    while side <= _LARGEST_PROBE:
        first = side // 2 // STEP * STEP
        probe = torch.zeros(1, channels, side, side, device=like.device, dtype=like.dtype)
        # All places of a grid of 8: a network that halves its maps sees differently far from each.
        probe[:, :, first : first + STEP, first : first + STEP] = torch.nan
        with torch.no_grad():
            touched = net(probe).isnan().any(dim=1)[0]
        if touched.shape != (side * scale, side * scale):
            return None
        rows, columns = (touched.any(dim=dim).nonzero().flatten() for dim in (1, 0))
        low = min(int(rows[0]), int(columns[0])) // scale
        high = max(int(rows[-1]), int(columns[-1])) // scale
        if low > 0 and high < side - 1:
            return max(first - low, high - (first + STEP - 1))
        side *= 2
    return None


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Of every tile: where it begins and ends, and where it does with its margin."""
    for begin in range(0, length, tile):
        end = min(begin + tile, length)
        yield begin, end, max(0, begin - margin), min(length, end + margin)


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
