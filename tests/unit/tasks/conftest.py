"""Small image folders, written where a test runs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

WriteFolder = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path) -> WriteFolder:
    """Function that writes ``{split: {class: number of images}}`` of random pixels below a folder and returns it.

    Image ``i`` of a split carries the number ``i`` in its first pixel, which tells images apart after decoding.
    """
    image_module = pytest.importorskip("PIL.Image")

    def write(counts: Mapping[str, Mapping[str, int]], *, size: tuple[int, int] = (8, 8), suffix: str = ".png") -> Path:
        generator = np.random.default_rng(0)
        for split, classes in counts.items():
            number = 0
            for name, count in classes.items():
                folder = tmp_path / "images" / split / name
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                    pixels[0, 0] = number
                    number += 1
                    image_module.fromarray(pixels).save(folder / f"{index:03}{suffix}")
        return tmp_path / "images"

    return write
