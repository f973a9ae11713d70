"""From image files to tensors of bytes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slimmable.errors import DataError, MissingDependencyError

CHUNK = 64
BAR_FROM = 2000
SMALL = 128 * 128
"""Images of fewer pixels decode in less time than threads need to take turns."""
LUMINANCE = (0.299, 0.587, 0.114)
_ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; from 5 on sides are swapped."""


@dataclass(frozen=True)
class FileImages:
    """Images that are decoded when they are asked for, upright: turned as their EXIF tag says.

    Args:
        files: Their paths.
        channels: 3 to read colours, 1 to read shades of grey.
    """

    files: tuple[str, ...]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Bytes of one image, ``(H, W, C)``.

        Raises:
            DataError: The file is no image, is damaged, or has other than 8 bits for a shade.
        """
        with self._opened(index) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut shades off, not scale them
                raise DataError(
                    f"image {self.files[index]} has the mode {image.mode}, shades of more than 8 bits; expected 8. "
                    "Convert it first, for how its shades are to be scaled cannot be known."
                )
            upright = _operations().exif_transpose(image)
            pixels = np.array(upright.convert("RGB" if self.channels == 3 else "L"))
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], self.channels))

    def take(self, indices: Tensor) -> "FileImages":
        """The images at ``indices``."""
        return FileImages(tuple(self.files[index] for index in indices.tolist()), self.channels)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of one image, from its header.

        Raises:
            DataError: The file is no image.
        """
        with self._opened(index) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)

    @contextmanager
    def _opened(self, index: int) -> Iterator[Any]:
        image_module = _pillow()
        try:
            with image_module.open(self.files[index]) as image:
                yield image
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise _unreadable(self.files[index], error) from error


def common_side(images: FileImages, *, looked_at: int = 64) -> int | None:
    """Side that the images share if all of a sample are square and alike, else ``None``.

    Args:
        images: Files; up to ``looked_at`` headers, evenly spread, are read.
        looked_at: Size of the sample.
    """
    step = max(1, len(images) // looked_at)
    sizes = {images.size(index) for index in range(0, len(images), step)}
    height, width = sizes.pop()
    return height if not sizes and height == width else None


def centre(images_BHWC: Tensor, side: int, *, shorter: int) -> Tensor:
    """Square of ``side`` pixels from the middle, after the shorter side was brought to ``shorter`` pixels.

    Args:
        images_BHWC: Bytes of equally large images.
        side: Height and width of the result.
        shorter: At least ``side``.

    Returns:
        Bytes, ``(B, side, side, C)``; antialiased bilinear where the size changes.
    """
    height, width = images_BHWC.shape[1:3]
    if min(height, width) != shorter:
        scale = shorter / min(height, width)
        size = [max(shorter, round(height * scale)), max(shorter, round(width * scale))]
        images_BCHW = F.interpolate(images_BHWC.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)
        images_BHWC = images_BCHW.permute(0, 2, 3, 1)
        height, width = size
    top, left = (height - side) // 2, (width - side) // 2
    return images_BHWC[:, top : top + side, left : left + side].contiguous()


def decode(images: FileImages, side: int, *, shorter: int, threads: int, progress: bool) -> Tensor:
    """All images at once, each as :func:`centre` leaves it.

    Args:
        images: Files.
        side: Height and width of the result.
        shorter: Size of the shorter side before the cut.
        threads: How many decode at a time.
        progress: Show a bar if there are many.

    Returns:
        Bytes, ``(N, side, side, C)``.

    Raises:
        DataError: A file is no image, or is damaged.
    """
    decoded = torch.empty((len(images), side, side, images.channels), dtype=torch.uint8)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(images))
        for index in range(start, stop):
            pixels = images[index]
            if pixels.shape[:2] != (side, side) or shorter != side:
                pixels = centre(pixels[None], side, shorter=shorter)[0]
            decoded[index] = pixels
        return stop - start

    starts = range(0, len(images), CHUNK)
    height, width = images.size(0)
    shown = progress and len(images) >= BAR_FROM
    with ThreadPoolExecutor(max(1, threads)) as pool, progress_bar(len(images), shown=shown) as advance:
        if height * width < SMALL:
            for start in starts:
                advance(fill(start))
            return decoded
        jobs = [pool.submit(fill, start) for start in starts]
        try:
            for job in as_completed(jobs):
                advance(job.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return decoded


def with_channels(images_NHWC: Tensor, channels: int) -> Tensor:
    """Grey bytes repeated to three channels, or colours weighed to one.

    >>> with_channels(torch.full((1, 2, 2, 1), 7, dtype=torch.uint8), 3).shape
    torch.Size([1, 2, 2, 3])
    """
    if images_NHWC.shape[3] == channels:
        return images_NHWC
    if channels == 3:
        return images_NHWC.expand(-1, -1, -1, 3).contiguous()
    return (images_NHWC.float() @ torch.tensor(LUMINANCE)).round().to(torch.uint8)[..., None]


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function that is told how many more of ``total`` images are decoded, and shows it on standard error."""

    def silent(_: int) -> None:
        """Show nothing."""

    if not shown:
        yield silent
        return
    try:
        from rich.console import Console
        from rich.errors import LiveError
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield silent
        return
    display = Progress(console=Console(stderr=True), transient=True)
    bar = display.add_task("decoding images", total=total)
    try:
        display.start()
    except LiveError:  # another bar is on the screen already
        yield silent
        return
    try:
        yield lambda count: display.advance(bar, count)
    finally:
        display.stop()


def _unreadable(file: str, error: Exception) -> DataError:
    return DataError(
        f"image {file} cannot be read ({error}); expected a file that Pillow can open. Replace it, or remove it."
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependencyError("image files need Pillow: pip install 'slimmable[vision]'") from error
    return Image


def _operations() -> Any:
    from PIL import ImageOps

    return ImageOps
