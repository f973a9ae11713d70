"""The coverage page: its summary, its order, and cells that Markdown cannot misread."""

import re
from dataclasses import replace

import pytest

from slimmable.recipes.coverage import CoverageRow
from slimmable.recipes.coverage_record import CoverageRecord
from slimmable.recipes.coverage_table import page, summary
from tests.unit.recipes.rows import FAULTY, FOUND, OPTIONS, SOUND


def row(model, family="ours", faults=(), **changes):
    return CoverageRow(family=family, model=model, found=replace(FOUND, **changes), faults=faults)


def cells(rows):
    """Cells of the page's table, a list for each model."""
    text = page(CoverageRecord(options=OPTIONS), rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in split}) == 1, "every row has every column"
    columns, _, *found = split
    return [dict(zip(columns, line, strict=True)) for line in found]


def test_a_row_has_every_figure():
    [found] = cells([row("net", macs=(12_345_678, 4_089_000_000), input_size=(3, 16, 112, 112))])

    assert found == {
        "family": "ours",
        "model": "`net`",
        "input": "3×16×112×112",
        "elastic layers": "3 / 4",
        "groups": "2",
        "MACs": "12.3 M – 4.09 G",
        "seconds": "1.5",
        "fixed": "1 layer: odd",
        "checks": "exact",
    }


def test_rows_are_in_the_order_of_families_then_models():
    rows = [row("b", "Z"), row("c", "a"), row("a", "Z"), row("d", "B")]

    assert [found["model"] for found in cells(rows)] == ["`c`", "`d`", "`a`", "`b`"]


def test_a_network_that_fails_has_a_row_with_its_error():
    failed, broken = cells([FAULTY, row("other", faults=("one law", "another"), seconds=2.0)])

    assert failed["checks"] == "**fails**: ValueError: odd"
    assert failed["elastic layers"] == ""
    assert broken["checks"] == "**fails**: one law; another"
    assert broken["seconds"] == "2.0"


def test_no_more_reasons_than_fit():
    [found] = cells([row("net", fixed=tuple(f"{n} layers: reason" for n in range(9, 4, -1)))])

    assert found["fixed"] == "9 layers: reason; 8 layers: reason; 7 layers: reason; and 2 reasons more"


def test_a_deviation_and_what_is_not_counted_are_told():
    [found] = cells([row("net", deviation=1.4e-7, uncounted=3)])

    assert found["checks"] == "to 1e-07"
    assert found["MACs"].startswith("≥ ")


def test_no_error_breaks_the_table():
    [found] = cells([replace(FAULTY, faults=("KeyError: 'a|b'\n<class 'int'>",))])

    assert found["checks"] == "**fails**: KeyError: 'a\\|b' &lt;class 'int'>"


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (
            [row("a", seconds=1.0), row("b", "theirs", seconds=2.0, elastic=4), row("c", seconds=9.0)],
            [
                "3 models of 2 families",
                "every layer is elastic in 1",
                "conversion takes 2.0 s in the median and 9.0 s at most",
                "none is without an elastic layer",
            ],
        ),
        (
            [row("a", elastic=0), row("b"), row("c", elastic=0, faults=("odd",)), FAULTY],
            [
                "4 models of 1 family",
                "every layer is elastic in 0",
                "conversion takes 1.5 s in the median and 1.5 s at most",
                "no layer is elastic in a, c",
                "2 fail: c, faulty",
            ],
        ),
    ],
)
def test_the_summary_names_those_that_stay_behind(rows, parts):
    assert summary(rows) == "; ".join(parts) + "."


def test_the_page_says_where_it_was_measured():
    record = CoverageRecord(options=OPTIONS)
    text = page(record, [SOUND])

    assert f"sources {record.code}" in text
    assert "torch 2" in text
    assert "min_ratio 0.25, divisor 8" in text
    assert "```" not in text, "a code block of a page is run by the tests"
