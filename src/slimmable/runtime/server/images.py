"""Images as the network was trained on them: decoded, resized, cut, scaled to 0..1, normalised; without torch."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from slimmable.errors import DeploymentError
from slimmable.runtime.server.refusals import Refused
from slimmable.runtime.switchable import Input

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MODES = {1: "L", 3: "RGB"}
_LONGEST_SIDE = 16_384


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input.

    Attributes:
        size: Height and width of the input.
        mean: Subtracted from each channel, after scaling to 0..1.
        std: Divides each channel.
        resize: The shorter side is brought to so many pixels, then the centre is cut out; None stretches the image.
        dtype: Type of the input.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None
    dtype: str

    @classmethod
    def of(cls, found: Mapping[str, Any] | None, inputs: Sequence[Input]) -> Self | None:
        """What an artifact says; None if its network takes no images.

        Raises:
            DeploymentError: What it says does not fit its input.
        """
        if found is None:
            return None
        try:
            height, width = (int(side) for side in found["size"])
            mean, std = (tuple(float(value) for value in found[key]) for key in ("mean", "std"))
            resize = None if found.get("resize") is None else int(found["resize"])
            [only] = inputs
        except (LookupError, TypeError, ValueError) as error:
            raise DeploymentError(f"the artifact's preprocessing {dict(found)} cannot be read: {error}") from error
        sound = len(mean) == len(std) and len(mean) in _MODES and all(std) and all(map(math.isfinite, mean + std))
        shape = list(only.shape[1:])
        expected = [len(mean), height, width]
        fits = len(shape) == 3 and all(size in (None, want) for size, want in zip(shape, expected, strict=True))
        if not sound or not fits or min(height, width, 1 if resize is None else resize) < 1:
            raise DeploymentError(
                f"the artifact's preprocessing {dict(found)} does not fit its input of shape {list(only.shape)}"
            )
        return cls(size=(height, width), mean=mean, std=std, resize=resize, dtype=only.dtype)

    def __call__(self, content: bytes, *, max_pixels: int) -> np.ndarray:
        """One example, ``(1, C, H, W)``, from the bytes of an image file.

        Args:
            content: The file.
            max_pixels: Most pixels of the image, as it comes and when its shorter side has been brought to size.

        Raises:
            Refused: The file is no image, is damaged, or is too large.
        """
        pixels_HW = self._fitted(_decoded(content, _MODES[len(self.mean)], max_pixels), max_pixels)
        image_HWC = np.asarray(pixels_HW, np.float32).reshape(*self.size, len(self.mean)) / np.float32(255)
        normal_HWC = (image_HWC - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal_HWC.transpose(2, 0, 1)[None], np.dtype(self.dtype))

    def _fitted(self, image: Image.Image, max_pixels: int) -> Image.Image:
        """The image in the size of the input; rounded as in evaluation (:mod:`slimmable.tasks.images`)."""
        height, width = self.size
        if self.resize is None:
            return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
        shorter, longer = sorted(image.size)
        if shorter != self.resize:
            scaled = max(self.resize, round(self.resize * longer / shorter))
            sides = (self.resize, scaled) if image.width <= image.height else (scaled, self.resize)
            if self.resize * scaled > max_pixels:
                # A thin strip of few pixels becomes a large image before its centre is cut out.
                raise Refused(
                    "too_large",
                    f"the image of {image.width}x{image.height} pixels is too long and thin: with its shorter side "
                    f"brought to {self.resize} it has {sides[0]}x{sides[1]}; expected at most {max_pixels} in all",
                )
            image = image.resize(sides, Image.Resampling.BILINEAR)
        # Where the image is smaller, what lies outside is black.
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def _decoded(content: bytes, mode: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        width, height = image.size
        if width * height > max_pixels or max(width, height) > _LONGEST_SIDE:
            raise Refused("too_large", f"the image has {width}x{height} pixels; expected at most {max_pixels} in all")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert(mode)
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused("too_large", f"the image has too many pixels; expected at most {max_pixels}") from error
    except Exception as error:
        # Decoders of damaged files raise what they please, warnings that are made errors included.
        raise Refused("malformed", f"the body is no sound image ({', '.join(_FORMATS)})") from error
