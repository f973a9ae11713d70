"""Every benchmark runs, and its last line gives the figures that are promised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = ["--rounds", "2", "--threads", "1", "--clock", "cpu", "--no-record"]


ANY = {
    *("excess_max", "unused_max", "brute_force_mismatches"),
    *("same", "forged_refused", "forged_accepted", "wrong"),
    *("onnxruntime_difference", "torch_difference", "extracted_difference"),
}
"""Figures that may be 0 or less."""

CELLS = ("ratio", "median", "control", "difference")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "keys"),
    [
        ("step", ["--batch", "2"], ["step_ratio_mobilenet_v1", "step_ratio_resnet20", "step_memory_ratio"]),
        ("forward", ["--size", "64"], ["forward_ratio_max", "switch_ms", "new_switch_ms"]),
        pytest.param(
            "latency",
            ["--size", "32", "--count", "8", "--held-out", "2"],
            ["mape", "median_error", "spread", "excess_max", "budget_error", "seconds"],
            marks=pytest.mark.nightly,
        ),
        (
            "search",
            [],
            [
                *("platforms7_s", "chain200_s", "filled7_s", "filled200_s", "unused_max", "graph_s"),
                "brute_force_mismatches",
            ],
        ),
        pytest.param(
            "pareco_overhead",
            ["--batch-size", "2", "--widths", "40"],
            ["overhead", "overhead_separate", "proposals", "step_s", "distinct"],
            marks=pytest.mark.nightly,
        ),
        (
            "deploy",
            [
                *("--networks", "mobilenet_v1_cifar", "--runtimes", "onnx,torch", "--batches", "1"),
                *("--widths", "0.25,1.0", "--places", "1", "--stored", "2"),
            ],
            [
                *(f"{name}_{what}" for name in ("onnxruntime", "torch") for what in CELLS),
                *("extracted_ratio", "extracted_median", "extracted_control", "extracted_difference"),
                *("onnxruntime_switch_ratio", "artifact_size_ratio", "separate_size_ratio", "artifact30_size_ratio"),
                *("memory_ratio", "peak_ratio", "takeover_ratio", "torch_switch_ms", "cached_us"),
            ],
        ),
        (
            "fuzz",
            ["--rounds", "20"],
            ["mutated", "refused", "same", "forged_refused", "forged_accepted", "wrong", "seconds"],
        ),
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
    times = {name: float(value) for name, value in figures.items() if name not in ANY}
    assert {name: value for name, value in times.items() if not value > 0} == {}


@pytest.mark.slow
def test_the_load_test_compares_three_servers():
    options = [
        "--made-up",
        "--shape",
        "3,8,8",
        "--target",
        "200ms",
        "--seconds",
        "3",
        "--doublings",
        "1",
        "--no-record",
    ]
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "load.py", "20ms", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = {name: float(value) for name, value in (pair.split("=") for pair in run.stdout.splitlines()[-1].split())}
    shares = ["held", "held_widest", "held_narrowest"]
    assert list(figures) == [*shares, "windows", "failed", "failed_widest", "work", "work_narrowest"]
    assert all(0 <= figures[name] <= 1 for name in shares)
    assert 0 < figures["work_narrowest"] <= figures["work"] <= 1


BARS = {
    "step": {"step_ratio_mobilenet_v1": 1.03, "step_ratio_resnet20": 1.03, "step_memory_ratio": 1.03},
    "forward": {"forward_ratio_max": 1.12, "switch_ms": 0.02, "new_switch_ms": 1.0},
    "search": {
        "platforms7_s": 0.02,
        "chain200_s": 0.3,
        "filled7_s": 1.0,
        "filled200_s": 10.0,
        "unused_max": 0.005,
        "brute_force_mismatches": 0,
    },
    "pareco_overhead": {"overhead": 0.10},
    "latency": {"mape": 5.0},
    "deploy": {
        **{f"{name}_difference": 0 for name in ("onnxruntime", "openvino", "executorch", "torch", "extracted")},
        **{f"{name}_median": 1.01 for name in ("onnxruntime", "openvino", "executorch", "torch", "extracted")},
        **{f"{name}_ratio": 1.03 for name in ("onnxruntime", "openvino", "executorch", "torch", "extracted")},
        "onnxruntime_switch_ratio": 1.25,
        "torch_switch_ms": 1.0,
        "cached_us": 10,
        "artifact_size_ratio": 1.03,
        "artifact30_size_ratio": 1.10,
        "memory_ratio": 1.10,
        "peak_ratio": 1.5,
        "takeover_ratio": 1.5,
    },
    "fuzz": {"wrong": 0},
    "load": {"failed": 0},
}
"""The most that recorded figures may be."""

LEAST = {"load": {"held": 0.95}, "fuzz": {"mutated": 10_000}}
"""The least that they may be."""


@pytest.mark.parametrize("name", BARS)
def test_recorded_figures_keep_what_is_promised(name):
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())

    assert record["benchmark"] == name
    figures = record["figures"]
    assert {key: figures[key] for key, most in BARS[name].items() if not figures[key] <= most} == {}
    assert {key: figures[key] for key, least in LEAST.get(name, {}).items() if not figures[key] >= least} == {}


def test_the_recorded_us_net_is_as_good_as_networks_of_each_width():
    record = json.loads((ROOT / "benchmarks" / "results" / "cifar10.json").read_text())

    figures, outcomes = record["figures"], record["outcomes"]
    assert len(record["margins"]) == 16
    assert min(record["margins"].values()) == figures["us_net_min_margin"] > -figures["noise"]
    assert figures["minutes"] < 30
    narrowest = outcomes["independent"]["accuracy"]["0.25"]
    assert outcomes["naive"]["accuracy"]["0.25"] < narrowest - 0.1
    assert outcomes["US-Net"]["uncalibrated"]["0.25"] < narrowest - 0.1
