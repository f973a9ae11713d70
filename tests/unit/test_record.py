"""Records and the files they are in."""

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slimmable.errors import DataError
from slimmable.record import RunRecord, atomic_path, atomic_write_json, cpu_quota, environment, jsonable, processor


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


def system(root, files):
    """A folder with such files of the system."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": "processor\t: 0\nmodel name\t: A Chip\n", "proc/device-tree/model": "A Board\0"}, "A Chip"),
        ({"proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd0b\n", "proc/device-tree/model": "A Board 5\0"}, "A Board 5"),
        ({}, platform.processor()),
    ],
)
def test_a_processor_without_a_name_is_called_by_its_board(tmp_path, files, name):
    assert processor(system(tmp_path, files)) == name


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "damaged\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/outside/this/container\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n",
            },
            0.5,
        ),
    ],
)
def test_the_least_quota_of_the_groups_around_counts(tmp_path, files, cores):
    assert cpu_quota(system(tmp_path, files)) == cores


def test_no_torch_is_needed():
    script = "import sys, slimmable.record; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
