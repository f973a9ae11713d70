"""Axes in terms of groups, against a mask of positions."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from slimmable.core.axes import Axis, Segment, axis_of
from slimmable.core.layout import Block

UNITS = (1, 2, 3)
"""Channels for one unit, by group."""


def mask(axis: Axis, channels: list[int], maximum: list[int]) -> list[bool]:
    """Whether each position is active, one at a time."""
    active = []
    for segment in axis.segments:
        if segment.group is None:
            active += [True] * segment.repeat
            continue
        kept, full = (sizes[segment.group] // segment.unit for sizes in (channels, maximum))
        for unit in range(full):
            active += [unit < kept] * segment.repeat
    return active


segments = st.builds(
    lambda group, repeat: Segment(group, repeat, 1 if group is None else UNITS[group]),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(1, 4),
)


@given(st.lists(segments, max_size=5), st.data())
def test_runs_and_sizes_are_those_of_the_mask(parts, data):
    axis = Axis(tuple(parts))
    maximum = [data.draw(st.integers(1, 5)) * unit for unit in UNITS]
    channels = [data.draw(st.integers(1, full // unit)) * unit for full, unit in zip(maximum, UNITS, strict=True)]
    expected = mask(axis, channels, maximum)

    runs = axis.active(channels, maximum)

    assert axis.size(channels) == sum(expected)
    found = [False] * len(expected)
    for start, length in runs:
        found[start : start + length] = [True] * length
    assert found == expected
    assert all(start + length < after for (start, length), (after, _) in itertools.pairwise(runs))
    assert axis.varies == any(segment.group is not None for segment in parts)


def test_a_layout_is_read_in_its_groups():
    axis = axis_of((Block(7, 4), Block(None, 3)), groups={7: 1}, units={7: 2})
    assert axis == Axis((Segment(1, 4, 2), Segment(None, 3)))
    assert axis.size((99, 6)) == 6 // 2 * 4 + 3
