"""A data set in COCO's format that nobody has to download: drawn shapes with boxes, outlines and, of arrows, keypoints.

Then, for one: ``slimmable train detection/smoke task.data.dataset=folder task.data.root=FOLDER``.
"""

import argparse
from pathlib import Path

from slimmable.tasks import write_shapes


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    parser.add_argument("--train", type=int, default=400, help="images to learn from")
    parser.add_argument("--val", type=int, default=100, help="images to test on")
    parser.add_argument("--side", type=int, default=128, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the data set")
    parser.add_argument("--arrows", action="store_true", help="arrows with keypoints, not circles, squares, triangles")
    options = parser.parse_args()
    counts = (options.train, options.val)
    write_shapes(options.folder, images=counts, side=options.side, seed=options.seed, arrows=options.arrows)
    print(f"{options.train} and {options.val} images are in {options.folder}, in COCO's format")


if __name__ == "__main__":
    main()
