"""The way of a user whose network acts, all from the command line."""

import json
import os
import subprocess
import sys

import pytest
import torch

from slimmable.cli.main import main
from slimmable.recipes import open_run, open_subnetwork, read_recipe, recipe
from slimmable.runtime import Runtime
from tests.e2e.killed import assert_a_killed_run_goes_on

EPOCHS = 40
TINY = (
    "task.environment={parallel: 2, validation_episodes: 2, test_episodes: 3}",
    "task.ppo={steps: 16, roll_outs: 2, passes: 2, batch_size: 16}",
    "train.epochs=2",
)
"""Changes of reinforcement-learning/smoke that leave a blink of training."""


@pytest.fixture(scope="module")
def train():
    return ["train", "reinforcement-learning/smoke", *TINY, "--device", "cpu"]


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reinforcement-learning") / "run"
    assert main([*train, "--folder", str(folder)]) == 0
    return folder


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_figures_over_a_range_of_widths(run, tmp_path, capsys):
    assert main(["eval", str(run), "--widths", "0.25:1.0:0.125", "--json", str(tmp_path / "e.json")]) == 0

    table = lines(capsys)
    assert table[0][:3] == ["width", "mean_reward", "std_reward"]
    assert [row[0] for row in table[1:]] == ["0.25", "0.375", "0.5", "0.625", "0.75", "0.875", "1.0"]
    found = {row["label"]: row for row in json.loads((tmp_path / "e.json").read_text())["widths"]}
    known = json.loads((run / "evaluation.json").read_text())["widths"]
    assert [row["label"] for row in known] == ["0.25", "0.5", "0.75", "1.0"]
    assert all(found[row["label"]] == row for row in known)


def test_there_is_nothing_to_calibrate(run, capsys):
    assert main(["calibrate", str(run), "--widths", "0.6"]) == 2
    assert "no batch norm: every width can be evaluated" in capsys.readouterr().err


def test_the_run_says_what_the_actions_are(run):
    assert json.loads((run / "network.json").read_text())["classes"] == ["0", "1"]


def test_a_sub_network_is_plain_and_acts_alike(run, tmp_path, capsys):
    path = tmp_path / "half.safetensors"

    assert main(["extract", str(run), "--width", "0.5", "-o", str(path)]) == 0

    assert "read back, it gives the same output" in capsys.readouterr().out
    net, task, *_ = open_run(run)
    plain = open_subnetwork(path)
    [batch, _] = task.test_batches()
    with net.at(net.space.uniform(0.5)):
        assert torch.equal(task.forward(plain, batch), task.forward(net, batch))


def test_an_artifact_acts_without_torch(run, tmp_path):
    path = tmp_path / "policy.slim"

    assert main(["export", str(run), "--widths", "0.25,1.0", "-o", str(path)]) == 0

    net, task, *_ = open_run(run)
    [seen] = task.example_inputs()
    with Runtime(path) as runtime:
        for ratio in (0.25, 1.0):
            with torch.no_grad(), net.at(net.space.uniform(ratio)):
                expected = net(seen)
            for found, each in zip(runtime.run(seen.numpy(), at=str(ratio)), expected, strict=True):
                torch.testing.assert_close(torch.from_numpy(found), each, atol=1e-5, rtol=1e-4)


def test_an_independent_network_by_one_change(train, tmp_path, capsys):
    changes = ["method.kind=independent", "method.width=0.5", "evaluation.widths=null", "--folder", str(tmp_path / "r")]

    assert main([*train, *changes]) == 0

    assert [row[0] for row in lines(capsys)[1:2]] == ["0.5"]


def test_a_bad_environment_is_one_clear_error(tmp_path, capsys):
    change = "task.environment.name=CartPole-v99"

    assert main(["train", "reinforcement-learning/smoke", change, "--folder", str(tmp_path / "run")]) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: the environment 'CartPole-v99' cannot be made")
    assert found.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_goes_on_to_the_same_weights(train, tmp_path):
    assert_a_killed_run_goes_on(train, tmp_path, epochs=EPOCHS)


def test_a_lander_lands_in_a_process_of_its_own(tmp_path):
    pytest.importorskip("gymnasium")
    short = ["task.ppo.steps=16", "train.epochs=1", "task.environment.validation_episodes=1"]
    command = [sys.executable, "-m", "slimmable.cli", "train", "reinforcement-learning/lunar-lander", *short]
    command += ["task.environment.test_episodes=1", "--folder", str(tmp_path / "run"), "--device", "cpu"]

    # Box2D's bindings warn when they are imported, and crash where warnings are errors.
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "mean_reward" in (tmp_path / "run" / "evaluation.csv").read_text()


def test_the_papers_policy_is_built_at_its_size():
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    found = recipe("reinforcement-learning/breakout")
    assert read_recipe("reinforcement-learning/breakout") == found

    task = found.task.build()
    net = task.model()

    assert [tuple(each.shape) for each in net.parameters() if each.dim() > 1] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (32, 64, 3, 3),
        (512, 1568),
        (4, 512),
        (1, 512),
    ]
