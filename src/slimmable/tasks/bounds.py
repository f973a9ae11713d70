"""Settings that are looked at when they are made, so that a wrong one is named before anything is read or trained."""

from typing import Any

from slimmable.errors import RecipeError


class Bounded:
    """Base of settings whose values have bounds."""

    def _require(self, holds: bool, key: str, expected: str) -> None:
        """Pass if ``holds``.

        Raises:
            RecipeError: Names the setting, its value and what was expected.
        """
        if not holds:
            raise RecipeError(f"{type(self).__name__}.{key} is {getattr(self, key)!r}; expected {expected}")


class ImageSetBounds(Bounded):
    """Base of settings of images that lie in a folder, or come without one."""

    dataset: Any
    root: Any
    batch_size: int
    held_out: float
    split_seed: int
    workers: int

    def _require_images(self, *names: str) -> None:
        """Pass if what such settings share is within its bounds; ``names`` are the data sets there are.

        Raises:
            RecipeError: It is not.
        """
        self._require(self.dataset in names, "dataset", f"one of {', '.join(names)}")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        for key in ("train_images", "test_images"):
            value = getattr(self, key)
            self._require(value is None or value >= 1, key, "at least 1, or None for all images")
        self._require(0 < self.held_out < 1, "held_out", "above 0 and below 1")
        self._require(self.split_seed >= 0, "split_seed", "at least 0")
        self._require(self.workers >= 0, "workers", "at least 0")
        if self.dataset == "folder" and self.root is None:
            raise RecipeError(f"{type(self).__name__}.root is None; data set 'folder' lies in a folder: name it.")
