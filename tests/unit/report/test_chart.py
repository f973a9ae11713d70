import math
import xml.etree.ElementTree as ET

import pytest

from slimmable.errors import DataError
from slimmable.report.chart import HEIGHT, line_chart, stacked

SPACE = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> list[list[tuple[float, float]]]:
    lines = ET.fromstring(text).iter(f"{SPACE}polyline")
    return [[tuple(map(float, point.split(","))) for point in line.attrib["points"].split()] for line in lines]


def test_points_lie_where_their_values_say():
    [line] = drawn(line_chart({"a": [(0, 0), (5, 5), (10, 10)]}, title="t", x="x", y="y"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x0 < x1 < x2
    assert y0 > y1 > y2  # up is small
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)


def test_steps_keep_their_value_until_the_next_point():
    [line] = drawn(line_chart({"a": [(0, 1), (1, 3)]}, title="t", x="x", y="y", steps=True))
    assert [point[1] for point in line[:2]] == [line[0][1]] * 2
    assert line[1][0] == line[2][0]


def test_names_are_written_as_text_and_levels_are_marked():
    text = line_chart({"<a> & b": [(0, 1), (1, 2)]}, title="t", x="x", y="y", levels={"target": 1.5})
    found = [each.text for each in ET.fromstring(text).iter(f"{SPACE}text")]
    assert "<a> & b" in found
    assert "target" in found


def test_what_is_not_finite_is_left_out():
    [line] = drawn(line_chart({"a": [(0, 1), (1, math.nan), (2, 2)]}, title="t", x="x", y="y"))
    assert len(line) == 2
    with pytest.raises(DataError, match="at least one point"):
        line_chart({"a": [(0, math.inf)]}, title="t", x="x", y="y")


def test_stacked_charts_stand_one_below_the_other():
    charts = [line_chart({"a": [(0, 1), (1, 2)]}, title=title, x="x", y="y") for title in ("first", "second")]
    found = ET.fromstring(stacked(charts))
    assert [each.get("y") for each in found] == ["0", str(HEIGHT)]
    assert [next(each.iter(f"{SPACE}text")).text for each in found] == ["first", "second"]
    assert found.get("height") == str(2 * HEIGHT)
