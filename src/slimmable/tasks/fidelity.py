"""How near an image made larger comes to the large one: PSNR and SSIM, on luminance and on colours."""

from typing import Any

from torch import Tensor

from slimmable.errors import DataError, MissingDependencyError
from slimmable.tasks.patches.batches import PatchBatch
from slimmable.tasks.patches.resample import scale_up

LUMINANCE = (65.481, 128.553, 24.966)
OFFSET = 16.0
"""ITU-R BT.601: luminance from 16 to 235 of red, green and blue between 0 and 1."""

WINDOW = 11
"""Side in pixels of the window through which SSIM looks."""


def luminance(images_BCHW: Tensor) -> Tensor:
    r"""Luminance ``(B, 1, H, W)`` of colours between 0 and 1, as ITU-R BT.601 has it for video.

    .. math:: Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255

    Its range is that of bytes, between 0 and 1, of which it takes 16/255 to 235/255; it is not rounded.

    >>> import torch
    >>> luminance(torch.ones(1, 3, 1, 1)).mul(255).round().item()
    235.0
    """
    weights = images_BCHW.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return ((images_BCHW * weights).sum(1, keepdim=True) + OFFSET) / 255


def shaved(images_BCHW: Tensor, border: int) -> Tensor:
    """Images without ``border`` pixels on every side, where a network sees less than elsewhere."""
    return images_BCHW[..., border:-border, border:-border]


class FidelityMetric:
    """PSNR in decibels and SSIM, means over images, each without a border of ``scale`` pixels.

    Outputs are rounded to bytes first, as they would be saved. ``compute`` gives ``psnr_y`` and ``ssim_y`` on luminance
    (see :func:`luminance`), ``psnr_rgb`` and ``ssim_rgb`` on colours, ``bicubic_psnr_y`` of bicubic up-scaling in the
    network's place, and ``loss``, the mean absolute error of the outputs as they are, border included.

    Args:
        scale: How many times larger outputs are than inputs.

    References:
        Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural Similarity. IEEE
        Transactions on Image Processing 2004 (SSIM; Gaussian window of 11 pixels, standard deviation 1.5).

    >>> import torch
    >>> metric = FidelityMetric(2)
    >>> high = torch.full((1, 3, 16, 16), 0.5)
    >>> metric.update(high + 10 / 255, PatchBatch(high[..., ::2, ::2], high))
    >>> round(metric.compute()["psnr_rgb"], 2)
    28.13
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._images = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, outputs: Tensor, batch: PatchBatch) -> None:
        """Take in outputs ``(B, 3, scale H, scale W)``."""
        found, wanted = outputs.detach().float(), batch.high
        plain = scale_up(batch.low, self.scale)
        errors = (found - wanted).abs().mean(dim=(1, 2, 3))
        found, plain, wanted = (shaved(_bytes(each), self.scale) for each in (found, plain, wanted))
        figures = {
            **_compared(luminance(found), luminance(wanted), "y"),
            **_compared(found, wanted, "rgb"),
            "bicubic_psnr_y": _psnr(luminance(plain), luminance(wanted)),
            "loss": errors,
        }
        for name, values in figures.items():
            total = values.double().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._images += len(found)

    def compute(self) -> dict[str, float]:
        """Every figure over all images taken in.

        Raises:
            DataError: There were none.
        """
        if not self._images:
            raise DataError("no images to compare; expected at least one. Check that the split is not empty.")
        return {name: total.item() / self._images for name, total in self._sums.items()}


def _bytes(images: Tensor) -> Tensor:
    return images.clamp(0, 1).mul(255).round().div(255)


def _compared(found: Tensor, wanted: Tensor, name: str) -> dict[str, Tensor]:
    _, by_pixel = _functional().structural_similarity_index_measure(
        found, wanted, data_range=1.0, reduction="none", return_full_image=True
    )
    # Where the window leaves the image torchmetrics mirrors it; the definition counts whole windows only.
    ssim = shaved(by_pixel, WINDOW // 2).mean(dim=(1, 2, 3))
    return {f"psnr_{name}": _psnr(found, wanted), f"ssim_{name}": ssim}


def _psnr(found: Tensor, wanted: Tensor) -> Tensor:
    return _functional().peak_signal_noise_ratio(found, wanted, data_range=1.0, dim=(1, 2, 3), reduction="none")


def _functional() -> Any:
    try:
        from torchmetrics.functional import image
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchmetrics":
            raise
        raise MissingDependencyError(
            "PSNR and SSIM need torchmetrics, which is not installed: pip install 'slimmable[super-resolution]'"
        ) from error
    return image
