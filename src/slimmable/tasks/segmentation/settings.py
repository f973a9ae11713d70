"""Which images with label maps a task learns from, and how they are fed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slimmable.tasks.bounds import ImageSetBounds

LabelMapSetName = Literal["shapes", "folder"]


@dataclass(frozen=True, kw_only=True)
class LabelMapSettings(ImageSetBounds):
    """Images of which every pixel has a label: 0 is background, 255 counts nowhere.

    A folder has one of these layouts:

    * Pascal VOC's: ``JPEGImages/``, ``SegmentationClass/`` and ``ImageSets/Segmentation/train.txt`` and ``val.txt``;
      ``VOCdevkit/VOC2012`` below the folder is found. ``test.txt`` counts where its label maps are there.
    * ``train/images/*`` and ``train/masks/*.png`` of the same names, ``val/`` or ``test/`` or both likewise, and
      ``classes.txt`` with a name on each line, from label 1 on.
    * COCO's format, see :class:`slimmable.tasks.detection.settings.SceneSettings`: masks are painted, pixels of crowds
      and of objects of two classes are 255.

    There are at most 254 classes.

    The final figures come from ``test``, or from ``val`` where there is no ``test``; validation images are then held
    out from ``train``.

    Attributes:
        dataset: ``shapes`` are drawn, see :mod:`slimmable.tasks.detection.shapes`; ``folder`` is any.
        root: Where the images lie; not needed for ``shapes``.
        size: Length of the shorter side that images are resized to; shapes are drawn at this size.
        crop: Side of the squares that are learnt from. Costs and exported networks are of such squares, or of ``size``
            if that is less.
        scales: Least and largest factor by which training images are resized beyond that.
        batch_size: Squares in a batch. In training an incomplete last batch is left out; evaluation takes one image
            at a time.
        flip: Mirror half of the training images.
        train_images: Train on this many images; ``None`` is all, or 400 shapes.
        test_images: Test on this many images; ``None`` is all, or 100 shapes.
        held_out: Part of the training images that is held out where no validation images are given, at least one.
        split_seed: Seed of what is held out, of the subsets and of the shapes, apart from the seed of a run.
        workers: Processes that read images; 0 reads in this one.

    Raises:
        RecipeError: A value is out of its range.

    >>> LabelMapSettings(dataset="folder", root="data/voc").crop
    480
    """

    dataset: LabelMapSetName = "shapes"
    root: str | Path | None = None
    size: int = 520
    crop: int = 480
    scales: tuple[float, float] = (0.5, 2.0)
    batch_size: int = 16
    flip: bool = True
    train_images: int | None = None
    test_images: int | None = None
    held_out: float = 0.1
    split_seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        self._require_images(*get_args(LabelMapSetName))
        for key in ("size", "crop"):
            self._require(getattr(self, key) >= 32, key, "at least 32")
        self._require(len(self.scales) == 2 and 0 < self.scales[0] <= self.scales[1], "scales", "two, the least first")
