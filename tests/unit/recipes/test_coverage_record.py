"""A coverage record is taken up where nothing that made it has changed."""

import json

import pytest

from slimmable.errors import DataError
from slimmable.recipes.coverage import CoverageRow
from slimmable.recipes.coverage_record import CoverageRecord, sources_digest
from tests.unit.recipes.rows import FAULTY, FOUND, OPTIONS, SOUND


@pytest.fixture
def path(tmp_path):
    record = CoverageRecord(options=OPTIONS)
    record.add(SOUND)
    record.add(FAULTY)
    record.save(tmp_path / "coverage.json")
    return tmp_path / "coverage.json"


def test_sound_rows_are_taken_up_and_faulty_ones_measured_again(path):
    record = CoverageRecord(options=OPTIONS)

    assert record.take_up(path) is None
    assert record.rows == {"sound": SOUND}


def test_without_a_file_there_is_nothing_to_take_up(tmp_path):
    record = CoverageRecord(options=OPTIONS)

    assert record.take_up(tmp_path / "none.json") is None
    assert record.rows == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"code": "another"}, "code"),
        ({"packages": {"torch": "0.1"}}, "packages"),
        ({"options": {**OPTIONS, "divisor": 16}}, "options"),
    ],
)
def test_rows_that_other_code_packages_or_options_made_are_not_taken_up(path, change, named):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    record = CoverageRecord(options=OPTIONS)

    assert record.take_up(path) == named
    assert record.rows == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "is no coverage record of schema version 1"),
        ('{"schema": 2, "rows": []}', "is no coverage record of schema version 1"),
    ],
)
def test_another_file_is_an_error_that_names_it(tmp_path, text, message):
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(DataError, match=message) as caught:
        CoverageRecord(options=OPTIONS).take_up(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("row", [{}, {"family": "a", "model": "b", "found": {"odd": 1}, "faults": []}, 3])
def test_a_row_of_another_form_is_an_error(path, row):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": [row]}))

    with pytest.raises(DataError, match="row of another form"):
        CoverageRecord(options=OPTIONS).take_up(path)


def test_a_row_takes_the_place_of_the_older_one_of_its_model():
    record = CoverageRecord(options=OPTIONS)
    record.add(FAULTY)
    again = CoverageRow(family="ours", model="faulty", found=FOUND)

    record.add(again)

    assert record.rows == {"faulty": again}


def test_the_digest_is_that_of_the_sources(tmp_path, monkeypatch):
    package = tmp_path / "slimmable"
    files = {name: package / name for name in ("core/a.py", "cli/b.py", "recipes/coverage.py")}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    monkeypatch.setattr("slimmable.recipes.coverage_record.__file__", str(package / "recipes" / "coverage_record.py"))
    digest = sources_digest.__wrapped__

    before = digest()
    files["cli/b.py"].write_text("x = 2\n")
    assert digest() == before, "the command line decides no row"
    files["core/a.py"].write_text("x = 2\n")
    assert digest() != before
