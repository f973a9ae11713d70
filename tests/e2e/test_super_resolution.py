"""The way of a user who makes images larger, all from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.cli.main import main
from slimmable.recipes import open_run, open_subnetwork
from tests.e2e.killed import assert_a_killed_run_goes_on
from tests.unit.recipes.images import TINY, write_images

ROOT = Path(__file__).parents[2]
EPOCHS = 30


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def train(images):
    return ["train", "super-resolution/smoke", *TINY, f"task.data.root={images}", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("super-resolution") / "run"
    assert main([*train, "--folder", str(folder)]) == 0
    return folder


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_figures_over_a_range_of_widths(run, tmp_path, capsys):
    assert main(["eval", str(run), "--widths", "0.5:1.0:0.125", "--json", str(tmp_path / "e.json")]) == 0

    table = lines(capsys)
    assert table[0][:6] == ["width", "psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "bicubic_psnr_y"]
    assert [row[0] for row in table[1:]] == ["0.5", "0.625", "0.75", "0.875", "1.0"]
    found = {row["label"]: row for row in json.loads((tmp_path / "e.json").read_text())["widths"]}
    known = json.loads((run / "evaluation.json").read_text())["widths"]
    assert all(found[row["label"]] == row for row in known)


def test_there_is_nothing_to_calibrate(run, capsys):
    assert main(["calibrate", str(run), "--widths", "0.6"]) == 2
    assert "no batch norm: every width can be evaluated" in capsys.readouterr().err


def test_a_sub_network_is_plain_and_gives_the_same_output(run, tmp_path, capsys):
    path = tmp_path / "half.safetensors"

    assert main(["extract", str(run), "--width", "0.5", "-o", str(path)]) == 0

    assert "read back, it gives the same output" in capsys.readouterr().out
    net, task, *_ = open_run(run)
    batch = next(iter(task.test_batches()))
    with torch.no_grad(), net.at(net.space.uniform(0.5)):
        assert torch.equal(open_subnetwork(path)(batch.low), net(batch.low))


def test_images_are_made_larger_at_a_width(run, images, tmp_path, capsys):
    chosen = [str(images / "test" / "0.png"), str(images / "test" / "1.png")]

    assert main(["upscale", str(run), *chosen, "--width", "0.75", "-o", str(tmp_path / "large"), "--tile", "16"]) == 0

    assert [line[0].rpartition("/")[2] for line in lines(capsys)] == ["0.png:", "1.png:"]
    for name in ("0.png", "1.png"):
        small, large = (np.array(Image.open(folder / name)) for folder in (images / "test", tmp_path / "large"))
        assert large.shape == (2 * small.shape[0], 2 * small.shape[1], 3)
    assert main(["upscale", str(run), *chosen, "--width", "0.5,1.0", "-o", str(tmp_path / "x")]) == 2
    assert "names 2 widths; expected one" in capsys.readouterr().err


def test_a_bad_folder_is_one_clear_error(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    changes = [*TINY, f"task.data.root={tmp_path}", "--folder", str(tmp_path / "run")]

    assert main(["train", "super-resolution/smoke", *changes]) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert "train holds no image" in found
    assert found.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_goes_on_to_the_same_weights(train, tmp_path):
    assert_a_killed_run_goes_on(train, tmp_path, epochs=EPOCHS)


@pytest.mark.parametrize("name", ["distilled", "labels"])
def test_recorded_figures_keep_what_is_promised(name):
    record = json.loads((ROOT / "benchmarks" / "results" / "super-resolution.json").read_text())

    rows = record["widths"][name]
    gains = [row["figures"]["psnr_y"] - row["figures"]["bicubic_psnr_y"] for row in rows]
    assert len({row["macs"] for row in rows}) == len(rows) == 9
    assert min(gains) > 0
    assert gains[-1] - gains[0] > 0.1, "the widest is better than the narrowest"
    assert gains == sorted(gains), "a wider network is a better one"
    assert record["figures"][f"{name}_minutes"] < 10


def test_the_example_writes_figures_and_a_picture(tmp_path):
    small = ["task.data.repeats=2", "train.epochs=1", "task.network.blocks=1", "evaluation.widths=0.5:1.0:0.25"]
    outputs = ["--results", str(tmp_path / "figures.json"), "--picture", str(tmp_path / "picture.png")]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "super_resolution.py", *small, *outputs, "--threads", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    figures = dict(pair.split("=") for pair in done.stdout.splitlines()[-1].split())
    assert {"bicubic_psnr_y", "distilled_gain_narrowest", "labels_gain_widest"} <= set(figures)
    assert [row["label"] for row in json.loads((tmp_path / "figures.json").read_text())["widths"]["labels"]] == [
        "0.5",
        "0.75",
        "1.0",
    ]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 4 * (picture.height - 24), "five panels"
