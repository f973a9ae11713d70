"""Rows of a coverage table that nobody had to measure."""

from slimmable.recipes.coverage import Coverage, CoverageRow

OPTIONS = {"min_ratio": 0.25, "divisor": 8}
FOUND = Coverage(
    input_size=(3, 8, 8),
    layers=4,
    elastic=3,
    groups=2,
    macs=(10, 40),
    uncounted=0,
    parameters=(5, 20),
    seconds=1.5,
    fixed=("1 layer: odd",),
    deviation=0.0,
)
SOUND = CoverageRow(family="ours", model="sound", found=FOUND)
FAULTY = CoverageRow(family="ours", model="faulty", faults=("ValueError: odd",))
