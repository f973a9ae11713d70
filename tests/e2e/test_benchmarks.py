"""Every benchmark runs, and its last line gives the figures that are promised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = ["--rounds", "2", "--threads", "1", "--clock", "cpu", "--no-record"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "keys"),
    [
        ("step", ["--batch", "2"], ["step_ratio_mobilenet_v1", "step_ratio_resnet20", "step_memory_ratio"]),
        ("forward", ["--size", "64"], ["forward_ratio_max", "switch_ms", "new_switch_ms"]),
        ("latency", ["--size", "32", "--count", "8", "--held-out", "2"], ["mape", "median_error", "seconds"]),
    ],
)
def test_the_last_line_gives_the_figures(script, options, keys):
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{script}.py", *SMALLEST, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = dict(pair.split("=") for pair in run.stdout.splitlines()[-1].split())
    assert list(figures) == keys
    assert all(float(value) > 0 for value in figures.values())
