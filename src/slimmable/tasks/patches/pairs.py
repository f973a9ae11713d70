"""Small images and the large ones they came from."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from slimmable.errors import DataError
from slimmable.tasks.images.decode import FileImages, progress_bar
from slimmable.tasks.patches.resample import scale_down

BAR_FROM = 50


class Pair(NamedTuple):
    """Bytes of a small image ``(3, H, W)`` and of the large one ``(3, scale H, scale W)``."""

    low: Tensor
    high: Tensor


class Pairs(Protocol):
    """Pairs by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


@dataclass(frozen=True, kw_only=True)
class FilePairs:
    """Pairs that are decoded when they are asked for.

    Attributes:
        high: Paths of the large images.
        low: Paths of the small ones in the same order; ``None`` scales the large ones down.
        scale: How many times larger the large ones are.
    """

    high: tuple[str, ...]
    low: tuple[str, ...] | None
    scale: int

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, index: int) -> Pair:
        """One pair; what of the large image does not divide by the scale is cut off on the right and below.

        Raises:
            DataError: A file is no image or is damaged, or the two do not go together.
        """
        high = _read(self.high, index)
        height, width = high.shape[1] // self.scale, high.shape[2] // self.scale
        if not height or not width:
            raise DataError(f"image {self.high[index]} has fewer than {self.scale} pixels a side; remove it.")
        high = high[:, : height * self.scale, : width * self.scale].contiguous()
        if self.low is None:
            return Pair(scale_down(high, self.scale), high)
        low = _read(self.low, index)
        if low.shape[1:] != (height, width):
            raise DataError(
                f"{self.low[index]} is {low.shape[2]}x{low.shape[1]} pixels; expected {width}x{height}, for "
                f"{self.high[index]} is to be {self.scale} times larger. Replace it, or remove the folder of small "
                "images: large ones are then scaled down."
            )
        return Pair(low, high)

    def take(self, indices: Sequence[int]) -> "FilePairs":
        """The pairs at ``indices``."""
        low = None if self.low is None else tuple(self.low[index] for index in indices)
        return FilePairs(high=tuple(self.high[index] for index in indices), low=low, scale=self.scale)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every large image, from its header.

        Raises:
            DataError: A file is no image.
        """
        images = FileImages(self.high)
        return [images.size(index) for index in range(len(images))]

    def decoded(self, *, threads: int, progress: bool) -> list[Pair]:
        """All pairs at once.

        Args:
            threads: How many are decoded at a time.
            progress: Show a bar if there are many.

        Raises:
            DataError: As for one pair.
        """
        with (
            ThreadPoolExecutor(max(1, threads)) as pool,
            progress_bar(len(self), shown=progress and len(self) >= BAR_FROM) as advance,
        ):
            found: list[Pair] = []
            try:
                for pair in pool.map(self.__getitem__, range(len(self))):
                    found.append(pair)
                    advance(1)
            finally:
                pool.shutdown(cancel_futures=True)
        return found


def _read(files: tuple[str, ...], index: int) -> Tensor:
    return FileImages(files)[index].permute(2, 0, 1)
