"""A table of the user's own is read, interpolated and checked."""

from random import Random

import numpy as np
import pytest

from slimmable.cost.table import LatencyTable
from slimmable.errors import DataError, WidthError
from tests.unit.cost.networks import attending, joined

HEADER = "module,in_channels,out_channels,milliseconds\n"


@pytest.fixture(scope="module")
def net():
    return joined()


LAYERS = {
    "left": ([3], [4, 8, 16]),
    "right": ([3], [8, 24]),
    "both": ([12, 30, 40], [8, 16, 32]),
    "deep": None,
    "squeeze": ([8, 32], [4, 16]),
    "excite": ([4, 16], [8, 32]),
    "head": ([8, 32], [5]),
}


def bent(inputs: float, outputs: float) -> float:
    """A function of two sizes that is bilinear between measured ones only if these are few."""
    return 0.5 + inputs + 2 * outputs + 0.25 * inputs * outputs


def lines(without: str = "") -> str:
    rows = ["network,,,10"]
    for name, sizes in LAYERS.items():
        pairs = [(8, 8), (16, 16), (32, 32)] if sizes is None else [(i, j) for i in sizes[0] for j in sizes[1]]
        rows += [f"{name},{i},{j},{bent(i, j)}" for i, j in pairs if name != without]
    return HEADER + "\n".join(rows) + "\n"


def interpolated(inputs: list[int], outputs: list[int], i: int, j: int) -> float:
    """Slow: linear along one axis at each measured size of the other, then along the other."""
    return float(np.interp(i, inputs, [np.interp(j, outputs, [bent(a, b) for b in outputs]) for a in inputs]))


def test_it_adds_up_what_layers_take_between_and_beyond_the_measured_sizes(net, tmp_path):
    (tmp_path / "mine.csv").write_text(lines())
    table = LatencyTable.read(tmp_path / "mine.csv", net)
    generator = Random(0)
    widths_list = [net.space.smallest, net.space.largest, *(net.space.random(generator) for _ in range(20))]

    expected = []
    for widths in widths_list:
        left, right, both, squeeze = (widths[name] for name in ("left", "right", "both", "squeeze"))
        sizes = {
            "left": (3, left),
            "right": (3, right),
            "both": (left + right, both),
            "squeeze": (both, squeeze),
            "excite": (squeeze, both),
            "head": (both, 5),
        }
        total = 10 + sum(interpolated(*LAYERS[name], *pair) for name, pair in sizes.items())
        depthwise = np.interp(both, [8, 16, 32], [bent(size, size) for size in (8, 16, 32)])
        expected.append(total + 2 * depthwise)  # it is called twice

    assert table(widths_list) == pytest.approx(expected)
    assert (table.name, table.unit) == ("latency", "ms")
    with pytest.raises(WidthError):
        table([attending().space.smallest])


def test_a_module_with_several_weights_is_one_layer(tmp_path):
    net = attending()
    sizes = [group.choices[0] for group in net.space.groups], [group.choices[-1] for group in net.space.groups]
    (tmp_path / "mine.csv").write_text(HEADER + "embed,8,8,1\nmix,8,8,2\nmix,32,32,6\nhead,8,5,1\n")

    table = LatencyTable.read(tmp_path / "mine.csv", net)

    assert sizes == ([8], [32])
    assert table([net.space.smallest, net.space.widths([16]), net.space.largest]) == pytest.approx([4, 4 + 4 / 3, 8])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module,milliseconds\n", "expected module,in_channels,out_channels,milliseconds"),
        ("", "expected module,in_channels,out_channels,milliseconds"),
        (lines(without="both"), "no line for 'both', whose width varies"),
        (HEADER + "neck,1,1,1\n", "'neck' is no layer of this network; its layers are 'left', 'right'"),
        (lines() + "both,12,24,1\n", "no line for 30 input and 24 output channels"),
        (lines() + "left,3,4,1\n", r"left with channels \(3, 4\) stands there twice"),
        (lines() + "network,,,1\n", "'network' stands there twice"),
        (HEADER + "left,3,4,fast\n", "line 2: milliseconds are 'fast', expected a number of at least 0"),
        (HEADER + "left,3,4,-1\n", "milliseconds are '-1'"),
        (HEADER + "left,3,4,nan\n", "milliseconds are 'nan'"),
        (HEADER + "left,three,4,1\n", "channels are 'three' and '4', expected whole numbers"),
        (HEADER + "left,3\n", "milliseconds are None"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(net, tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)

    with pytest.raises(DataError, match=message):
        LatencyTable.read(tmp_path / "mine.csv", net)


def test_a_missing_file_is_named(net, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read as a table"):
        LatencyTable.read(tmp_path / "none.csv", net)
