"""Lists of widths as people write them."""

import json

import numpy as np
import pytest

from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.errors import WidthError
from slimmable.recipes.widths import parse_ratios, read_widths


def group(name, base):
    return WidthGroup(name=name, base=base, minimum=base // 4, maximum=base, divisor=8)


@pytest.fixture
def space():
    return WidthSpace((group("stem", 32), group("head", 64)), min_ratio=0.25, max_ratio=1.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.5", (0.5,)),
        (" 0.5 , 1 ", (0.5, 1.0)),
        ("0.25:1.0:0.25", (0.25, 0.5, 0.75, 1.0)),
        ("0.25:0.7:0.2", (0.25, 0.45, 0.65)),
        (".5:.5:.1,1.", (0.5, 1.0)),
        ((1, 0.5), (1.0, 0.5)),
        (0.5, (0.5,)),
        (np.float32(0.5), (0.5,)),
    ],
)
def test_ratios(written, expected):
    assert parse_ratios(written) == expected


def test_a_range_of_steps_without_binary_form_reaches_its_end():
    ratios = parse_ratios("0.25:1.0:0.05")

    assert len(ratios) == 16
    assert ratios[-1] == 1.0
    assert all(ratio == round(ratio, 2) for ratio in ratios)


@pytest.mark.parametrize(
    "written", ["", "half", "0.5,", "0.2:1", "1:0.5:0.1", "0.5:1:0", "0", "-0.5", "1e-1", "nan", (), (0.5, 0.0)]
)
def test_anything_else_is_refused_with_what_was_expected(written):
    with pytest.raises(WidthError, match="expected"):
        parse_ratios(written)


def test_uniform_widths_are_called_by_their_ratio(space):
    found = read_widths("0.25,1", space)

    assert [(named.label, named.widths) for named in found] == [("0.25", space.smallest), ("1.0", space.largest)]


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"stem": 8, "head": 64}, ["mine"]),
        ([{"stem": 8, "head": 64}, {"stem": 32, "head": 16}], ["mine[0]", "mine[1]"]),
        ({"phone": {"stem": 8, "head": 64}, "watch": {"stem": 8, "head": 16}}, ["phone", "watch"]),
    ],
)
def test_widths_of_single_layers_come_from_a_file(space, tmp_path, content, labels):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))

    found = read_widths(f"0.5,{path}", space)

    assert [named.label for named in found] == ["0.5", *labels]
    assert found[1].widths.channels == (8, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as widths"),
        ("[]", "holds no widths"),
        ("[3]", "is no widths; expected an object"),
        ("{}", "is no widths"),
        ('{"stem": 8}', r"missing groups \['head'\]"),
        ('{"stem": 8, "head": 9}', "group 'head' cannot keep 9 channels"),
        ('{"stem": 8, "head": 16.5}', "expected a whole number"),
    ],
)
def test_a_wrong_file_is_named(space, tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(WidthError, match=message):
        read_widths(str(path), space)


def test_a_missing_file_is_named(space):
    with pytest.raises(WidthError, match=r"absent\.json cannot be read"):
        read_widths("absent.json", space)
