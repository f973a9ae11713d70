"""Small images on disk, and the changes that make a recipe of super-resolution one for them."""

from pathlib import Path

import torch
from PIL import Image

TINY = (
    "task.data.dataset=folder",
    "task.data.patch=12",
    "task.data.batch_size=4",
    "task.data.repeats=4",
    "task.network={width: 0.25, blocks: 1}",
    "convert.divisor=4",
    "evaluation.widths=0.5:1.0:0.25",
    "train.epochs=2",
    "train.validate_every=1",
)
"""Changes of super-resolution/smoke that leave a second of training; ``task.data.root`` is to be named."""


def write_images(root: Path) -> Path:
    """Three images to learn from and two to test on, below ``root``."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("test", 2)):
        (root / split).mkdir(parents=True)
        for index in range(count):
            coarse = torch.rand(1, 3, 6, 5 + index, generator=generator)
            pixels = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic").clamp(0, 1)
            Image.fromarray(pixels[0].mul(255).byte().permute(1, 2, 0).numpy()).save(root / split / f"{index}.png")
    return root
