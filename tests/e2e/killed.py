"""A run that is killed in its middle, for any recipe."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from slimmable.cli.main import main
from slimmable.record import RunRecord


def assert_a_killed_run_goes_on(train: Sequence[str], folder: Path, *, epochs: int) -> None:
    """Train to the end; train again, kill after an epoch, resume: the same weights, bit for bit.

    Args:
        train: The command and its arguments, without folder and number of epochs.
        folder: An empty one.
        epochs: So many that the kill comes before the last.
    """
    whole, run = folder / "whole", folder / "run"
    long = [*train, f"train.epochs={epochs}", "train.validate_every=100", "--folder"]
    assert main([*long, str(whole)]) == 0
    command = [sys.executable, "-m", "slimmable.cli", *long, str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not (run / "last.safetensors").exists():
            assert process.poll() is None, "training ended too soon"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert len(RunRecord.load(run / "record.json").history) < epochs, "the run was not ended in its middle"

    assert main(["train", str(run / "recipe.yaml"), "--folder", str(run), "--resume", "--device", "cpu"]) == 0

    found, expected = (load_file(each / "network.safetensors") for each in (run, whole))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
