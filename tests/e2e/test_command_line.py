"""The way of a user: train, evaluate, calibrate, extract, resume, all from the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from slimmable.cli.main import main
from slimmable.recipes import open_run, open_subnetwork
from slimmable.record import RunRecord

SMALL = ("task.data.train_samples=256", "task.data.batch_size=32", "evaluation.widths=0.25:1.0:0.25")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command-line") / "run"
    assert main(["train", "digits/us-net", *SMALL, "--folder", str(folder), "train.epochs=2"]) == 0
    return folder


def test_the_package_is_run_as_a_module():
    found = subprocess.run([sys.executable, "-m", "slimmable", "recipes"], capture_output=True, text=True, check=True)
    assert "digits/us-net" in found.stdout


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_training_leaves_a_complete_folder_and_a_table(tmp_path, capsys):
    folder = tmp_path / "run"
    small = [*SMALL, "train.epochs=1"]

    assert main(["train", "classification/smoke", *small, "--folder", str(folder)]) == 0

    table = lines(capsys)
    assert table[0][:2] == ["width", "accuracy"]
    assert [row[0] for row in table[1:5]] == ["0.25", "0.5", "0.75", "1.0"]
    expected = {"recipe.yaml", "record.json", "last.safetensors", "network.safetensors", "network.json", "curves"}
    assert {path.name for path in folder.iterdir()} == expected | {"evaluation.json", "evaluation.csv"}
    assert main(["train", "classification/smoke", *small, "--folder", str(folder)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_evaluation_shows_what_training_left(run, tmp_path, capsys):
    assert main(["eval", str(run), "--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv")]) == 0

    assert len(lines(capsys)) == 5
    found = json.loads((tmp_path / "e.json").read_text())["widths"]
    assert found == json.loads((run / "evaluation.json").read_text())["widths"]
    with (tmp_path / "e.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["width"] for row in table] == ["0.25", "0.5", "0.75", "1.0"]
    assert [int(row["macs"]) for row in table] == [row["macs"] for row in found]


def test_new_widths_want_calibration_uniform_or_by_layer(run, tmp_path, capsys):
    net, *_ = open_run(run)
    mine = dict(net.space.largest.to_json(), conv1=16)
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    widths = f"0.6,{tmp_path / 'mine.json'}"

    assert main(["eval", str(run), "--widths", widths]) == 2
    assert "no batch-norm statistics at widths 0.6, mine; calibrate them first" in capsys.readouterr().err

    assert main(["eval", str(run), "--widths", widths, "--calibrate"]) == 0
    assert [row[0] for row in lines(capsys)] == ["width", "0.6", "mine"]
    assert main(["eval", str(run), "--widths", widths]) == 2, "eval keeps nothing"

    assert main(["calibrate", str(run), "--widths", widths, "--samples", "100"]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--widths", f"{widths},0.25"]) == 0
    assert [row[0] for row in lines(capsys)] == ["width", "0.6", "mine", "0.25"]


@pytest.mark.parametrize("fold", [[], ["--fold-batch-norm"]], ids=["as it is", "folded"])
def test_a_sub_network_is_plain_and_gives_the_same_output(run, tmp_path, capsys, fold):
    path = tmp_path / "half.safetensors"

    assert main(["extract", str(run), "--width", "0.5", "-o", str(path), *fold]) == 0

    assert "read back, it gives the same output" in capsys.readouterr().out
    net, task, *_ = open_run(run)
    plain = open_subnetwork(path)
    batch = next(iter(task.test_batches()))
    with torch.no_grad(), net.at(net.space.uniform(0.5)):
        torch.testing.assert_close(plain(batch.images), net(batch.images), rtol=1e-4, atol=1e-5)
    assert path.stat().st_size < 0.5 * (run / "network.safetensors").stat().st_size


def test_a_sub_network_is_one_width(run, tmp_path, capsys):
    assert main(["extract", str(run), "--width", "0.25,0.5", "-o", str(tmp_path / "x")]) == 2
    assert "names 2 widths; expected one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


EPOCHS = 40
"""Enough that a signal after the first of them finds the others to be done, however busy the machine is."""

LONG = ["train", "digits/us-net", *SMALL, f"train.epochs={EPOCHS}", "--device", "cpu", "--folder"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Weights and statistics at the end of a run of several epochs."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main([*LONG, str(folder)]) == 0
    return load_file(folder / "network.safetensors")


def wait_for(path, process, *, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "training ended too soon"
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_a_run_that_was_ended_goes_on_to_the_same_weights(uninterrupted, tmp_path, how):
    folder, errors = tmp_path / "run", tmp_path / "errors"
    # A suite that was itself started in the background has its children ignore Ctrl-C.
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heeding}; from slimmable.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, *LONG, str(folder)]
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        wait_for(folder / "last.safetensors", process)
        process.send_signal(how)
        process.wait(timeout=120)
    record = RunRecord.load(folder / "record.json")
    assert len(record.history) < EPOCHS, "the run was not ended in its middle"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"slimmable train {folder}/recipe.yaml --folder {folder} --resume" in errors.read_text()
        assert record.status == "interrupted"

    assert main(["train", str(folder / "recipe.yaml"), "--folder", str(folder), "--resume", "--device", "cpu"]) == 0

    found = load_file(folder / "network.safetensors")
    assert set(found) == set(uninterrupted)
    assert all(torch.equal(found[name], uninterrupted[name]) for name in found)
    assert len(RunRecord.load(folder / "record.json").history) == EPOCHS
