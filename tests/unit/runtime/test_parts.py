import itertools

import numpy as np
import pytest

from slimmable.core.axes import Axis, Segment
from slimmable.runtime.base import Layout, products
from slimmable.runtime.manifest import Part
from slimmable.runtime.parts import ALIGNMENT, Cut, cut, table_size
from slimmable.runtime.tensor_session import products as tensor_products

MAXIMUM = (6, 4)
PARTS = (
    Part(
        name="conv",
        source="conv",
        scale=0,
        moving=((0, Axis((Segment(0, 1),))), (1, Axis((Segment(1, 1),)))),
        shape=(6, 4, 3, 3),
    ),
    Part(name="conv.bias", source=None, scale=None, moving=((0, Axis((Segment(0, 1),))),), shape=(6,)),
    Part(name="raw", source="raw", scale=None, moving=((0, Axis((Segment(0, 1),))),), shape=(6, 2, 3, 3)),
    Part(name="fc", source="fc", scale=None, moving=((1, Axis((Segment(0, 1),))),), shape=(5, 6)),
    Part(
        name="joined", source="joined", scale=None, moving=((0, Axis((Segment(0, 1), Segment(1, 1)))),), shape=(10, 2)
    ),
)


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line, as in a file."""
    raw = np.empty(values.nbytes + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    copy = raw[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


SOURCES = {
    part.source: aligned(np.random.default_rng(at).standard_normal(part.shape).astype(np.float32))
    for at, part in enumerate(PARTS)
    if part.source is not None
}
LAYOUTS = {
    f"{order}, {'strided' if strided else 'packed'}, {'torch' if each is tensor_products else 'numpy'}": Layout(
        order=order, strided=strided, products=each
    )
    for order, strided, each in itertools.product(
        ("contiguous", "channels_last"), (False, True), (products, tensor_products)
    )
}


def cut_at(channels: tuple[int, int]) -> tuple[Cut, np.ndarray]:
    table = np.random.default_rng(9).standard_normal(table_size(PARTS, channels)).astype(np.float32)
    wanted = [part.name for part in PARTS]
    return cut(PARTS, wanted=wanted, sources=SOURCES, table=table, channels=channels, maximum=MAXIMUM), table


def slowly(channels: tuple[int, int], table: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor, number by number."""
    first, second = channels
    scale, bias = table[:first], table[first : 2 * first]
    conv = np.empty((first, second, 3, 3), np.float32)
    for at in np.ndindex(*conv.shape):
        conv[at] = SOURCES["conv"][at] * scale[at[0]]
    rows = [*range(first), *range(6, 6 + second)]
    return {
        "conv": conv,
        "conv.bias": bias,
        "raw": SOURCES["raw"][:first],
        "fc": SOURCES["fc"][:, :first],
        "joined": SOURCES["joined"][rows],
    }


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("channels", [(6, 4), (3, 2), (1, 1), (6, 1)])
def test_tensors_are_those_that_slow_slicing_gives_each_time_they_are_written(name, channels):
    layout = LAYOUTS[name]
    made, table = cut_at(channels)
    buffer = np.zeros(made.nbytes, np.uint8)
    frame = made.frame(buffer, layout)
    for noise in (1, 255):
        buffer[:] = noise  # another width was here
        frame.write()
        expected = slowly(channels, table)
        assert frame.arrays.keys() == expected.keys()
        for name, array in frame.arrays.items():
            assert np.array_equal(array, expected[name]), name
        lies = frame.arrays["raw"]
        assert (lies.transpose(0, 2, 3, 1) if layout.order == "channels_last" else lies).flags.c_contiguous
        assert layout.strided or frame.arrays["fc"].flags.c_contiguous


def test_what_stands_in_the_file_as_it_is_wanted_is_not_copied():
    made, _ = cut_at((3, 2))
    buffer = aligned(np.zeros(made.nbytes, np.uint8))
    for layout in LAYOUTS.values():
        arrays = made.fill(buffer, layout)
        shared = {name for name, array in arrays.items() if not np.shares_memory(array, buffer)}
        expected = {"raw"} if layout.order == "contiguous" else set()
        expected |= {"fc"} if layout.strided else set()
        assert shared == expected
        assert all(array.ctypes.data % ALIGNMENT == 0 for array in arrays.values()), "sums have one order"
