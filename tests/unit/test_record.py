"""Records and the files they are in."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slimmable.errors import DataError
from slimmable.record import RunRecord, atomic_path, atomic_write_json, environment, jsonable


def record(**options):
    values = {"task": "toy", "metric": "accuracy", "higher_is_better": True, "settings": {"lr": 0.1}, "sampler": {}}
    return RunRecord(**{**values, "environment": environment(), **options})


def test_a_record_comes_back_as_it_was(tmp_path):
    saved = record(history=[{"epoch": 1, "losses": [0.25, 0.5]}], status="finished")
    saved.save(tmp_path / "deep" / "record.json")
    assert RunRecord.load(tmp_path / "deep" / "record.json") == saved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable run record"),
        ("[]", "schema version None"),
        ('{"schema": 99}', "schema version 99; expected 1"),
        ('{"schema": 1, "task": "toy", "extra": 1}', "missing or unknown entries: created, environment, extra"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, content, message):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(DataError, match=message):
        RunRecord.load(tmp_path / "record.json")


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        RunRecord.load(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"x": 1})

    def write_half():
        with atomic_path(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        write_half()
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_form_of_what_we_keep():
    @dataclass
    class Inner:
        values: tuple[float, ...]

    found = jsonable({"a": Inner((1.0, float("inf"))), 3: Path("x") / "y", "none": None})
    assert found == {"a": {"values": [1.0, None]}, "3": str(Path("x") / "y"), "none": None}
    with pytest.raises(TypeError, match="function has no JSON form"):
        jsonable({"a": jsonable})


def test_the_environment_names_versions_and_nothing_private():
    found = environment(packages=("torch", "no-such-package"), device="cpu")
    assert found["device"] == "cpu"
    assert list(found["packages"]) == ["torch"]
    assert set(found) == {"slimmable", "python", "system", "processor", "cores", "packages", "device"}


def test_no_torch_is_needed():
    script = "import sys, slimmable.record; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
