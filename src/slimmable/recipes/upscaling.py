"""Images made larger by the network of a run."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimmable.errors import DataError, RecipeError
from slimmable.recipes.figures import require_calibrated
from slimmable.recipes.folder import OpenRun
from slimmable.recipes.widths import NamedWidths
from slimmable.record import atomic_path
from slimmable.tasks import SuperResolutionTask
from slimmable.tasks.images.decode import FileImages
from slimmable.tasks.tiling import TILE

_KEEPING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
"""How formats are written that would lose what the network has added."""


@dataclass(frozen=True, kw_only=True)
class Upscaled:
    """An image that was made larger.

    Attributes:
        path: The file.
        size: Its width and height.
        seconds: How long the network took.
    """

    path: Path
    size: tuple[int, int]
    seconds: float


def upscale_files(
    opened: OpenRun,
    images: Sequence[str | Path],
    output: str | Path,
    *,
    width: NamedWidths,
    tile: int = TILE,
) -> Iterator[Upscaled]:
    """Make images of any size larger at one width of a run's network, one after the other.

    Args:
        opened: The run, from :func:`slimmable.recipes.folder.open_run`, its network and task on one device.
        images: Image files.
        output: A file with the ending of an image for a single image; else a folder, which receives ``NAME.png``.
        width: Which sub-network.
        tile: Side in pixels of the tiles in which large images are computed, a multiple of 8.

    Yields:
        What was written.

    Raises:
        RecipeError: The run is of another task, two results would have one name, one would replace an image that is
            read, or the tile is odd.
        CalibrationError: The network has batch norm and no statistics at this width.
        DataError: A file is no image, or no such image can be written.
    """
    net, task, recipe, _ = opened
    if not isinstance(task, SuperResolutionTask):
        raise RecipeError(
            f"the run is of {recipe.task.kind}; only networks of super-resolution make images larger: train one with "
            "slimmable train super-resolution/photos"
        )
    require_calibrated(net, [width])
    targets = _targets(images, Path(output))
    for image, path in zip(images, targets, strict=True):
        pixels = FileImages((str(image),))[0]
        low = pixels.permute(2, 0, 1)[None].to(task.device).float().div(255)
        began = time.perf_counter()
        with torch.no_grad(), net.at(width.widths):
            large = task.upscale(net, low, tile=tile)
        found = large[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu()
        seconds = time.perf_counter() - began
        _write(found, path)
        yield Upscaled(path=path, size=(found.shape[1], found.shape[0]), seconds=seconds)


def _targets(images: Sequence[str | Path], output: Path) -> list[Path]:
    targets = _named(images, output)
    originals = {Path(image).resolve() for image in images}
    for target in targets:
        if target.resolve() in originals:
            raise RecipeError(f"{target} would replace the image it is made from; name another file or folder")
    return targets


def _named(images: Sequence[str | Path], output: Path) -> list[Path]:
    from PIL import Image

    if output.suffix:
        if output.suffix.lower() not in Image.registered_extensions():
            raise DataError(f"{output} has no ending of an image; expected .png or another, or a folder without a dot")
        if len(images) > 1:
            raise RecipeError(f"{output} is one file, but {len(images)} images are to be written; name a folder")
        return [output]
    names = [Path(image).stem for image in images]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise RecipeError(f"{count} images are called {name}; write them into different folders")
    return [output / f"{name}.png" for name in names]


def _write(pixels_HWC: Tensor, path: Path) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        try:
            kind = Image.registered_extensions()[path.suffix.lower()]
            Image.fromarray(pixels_HWC.numpy()).save(temporary, kind, **_KEEPING.get(kind, {}))
        except (KeyError, OSError) as error:
            raise DataError(
                f"{path} cannot be written ({error}); expected .png or another ending of an image"
            ) from error
