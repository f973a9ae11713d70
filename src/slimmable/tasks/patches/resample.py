"""Bicubic resampling, down with antialiasing and up, as super-resolution is measured against.

PyTorch's ``antialias=True`` widens the kernel when it scales down, and the kernel's coefficient is -1/2, as that of
Pillow and MATLAB; without it PyTorch's is -3/4 and aliases. Values are computed in floating point and rounded once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_down(image_CHW: Tensor, scale: int) -> Tensor:
    """Bytes ``(C, H / scale, W / scale)`` of bytes ``(C, H, W)`` whose sides divide by ``scale``; bicubic, antialiased.

    >>> scale_down(torch.full((3, 8, 6), 7, dtype=torch.uint8), 2).unique()
    tensor([7], dtype=torch.uint8)
    """
    height, width = image_CHW.shape[1:]
    assert height % scale == width % scale == 0
    found = bicubic(image_CHW[None].float(), (height // scale, width // scale))[0]
    return found.round().clamp(0, 255).to(torch.uint8)


def scale_up(images_BCHW: Tensor, scale: int) -> Tensor:
    """Images ``scale`` times larger, bicubic: what networks are compared with. Values may overshoot their range."""
    height, width = images_BCHW.shape[2:]
    return bicubic(images_BCHW, (height * scale, width * scale))


def bicubic(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Floating-point images resampled to ``size``."""
    return F.interpolate(images_BCHW, size=size, mode="bicubic", antialias=True)
