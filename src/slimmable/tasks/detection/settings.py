"""Which images with objects a task learns from, and how they are fed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slimmable.tasks.bounds import ImageSetBounds

SceneSetName = Literal["shapes", "folder"]


@dataclass(frozen=True, kw_only=True)
class SceneSettings(ImageSetBounds):
    """Images with objects on them.

    A folder holds annotations in COCO's format, in one of these layouts:

    * COCO's: ``annotations/instances_train2017.json`` for images in ``train2017/``, and ``val2017``; for keypoints
      ``person_keypoints_...`` where it is there. The final figures come from ``val``; validation images are held out
      from ``train``, unless there is an annotated ``test`` too. Any ending will do in place of ``2017``, the same
      one for all parts.
    * ``train/_annotations.coco.json`` beside its images, and ``valid/`` or ``test/`` or both.

    Attributes:
        dataset: ``shapes`` are drawn, see :mod:`slimmable.tasks.detection.shapes`; ``folder`` is any.
        root: Where the images lie; not needed for ``shapes``.
        size: Length of the shorter side that images are resized to; shapes are drawn at this size.
        max_size: Limit of the longer side.
        batch_size: Images in a batch. In training an incomplete last batch is left out.
        flip: Mirror half of the training images. Keypoints change places whose names differ by ``left`` and ``right``,
            or by ``l`` and ``r`` as a word, in any case.
        train_images: Train on this many images; ``None`` is all, or 400 shapes.
        test_images: Test on this many images; ``None`` is all, or 100 shapes.
        held_out: Part of the training images that is held out where no validation images are given, at least one.
        split_seed: Seed of what is held out, of the subsets and of the shapes, apart from the seed of a run.
        workers: Processes that read images; 0 reads in this one.

    Raises:
        RecipeError: A value is out of its range.

    >>> SceneSettings(dataset="folder", root="data/coco").size
    800
    """

    dataset: SceneSetName = "shapes"
    root: str | Path | None = None
    size: int = 800
    max_size: int = 1333
    batch_size: int = 16
    flip: bool = True
    train_images: int | None = None
    test_images: int | None = None
    held_out: float = 0.1
    split_seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        self._require_images(*get_args(SceneSetName))
        self._require(self.size >= 32, "size", "at least 32")
        self._require(self.max_size >= self.size, "max_size", f"at least {self.size}, the size")

    @property
    def image_size(self) -> tuple[int, int]:
        """Length of the shorter side, and limit of the longer one."""
        return self.size, self.max_size

    @property
    def example_side(self) -> int:
        """Side of the square on which the network is analysed and costs are counted: the size, but at most 256."""
        return min(256, -(-self.size // 32) * 32)
