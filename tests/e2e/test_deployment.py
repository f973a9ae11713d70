"""The way to a device: train, export, time, and run where PyTorch is not installed."""

import json
import os
import re
import signal
import subprocess
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

import slimmable
from slimmable.cli.main import main
from slimmable.recipes import open_run
from slimmable.runtime import Artifact, Runtime

ROOT = Path(__file__).parents[2]
SMALL = ("task.data.train_samples=256", "task.data.batch_size=32", "evaluation.widths=0.25:1.0:0.25")
BACKENDS = ("onnx", "openvino", "torch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment") / "run"
    assert main(["train", "digits/us-net", *SMALL, "--folder", str(folder), "train.epochs=1"]) == 0
    return folder


@pytest.fixture(scope="module")
def artifact(run):
    path = run / "model.slim"
    command = ["export", str(run), "-o", str(path), "--widths", "0.25,0.5,1.0", "--runtime", ",".join(BACKENDS)]
    assert main(command) == 0
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_runtime_gives_what_the_network_gives(run, artifact, backend):
    net = open_run(run).net
    images = torch.randn(7, *[size for size in Artifact(artifact).inputs[0].shape if size is not None])
    with Runtime(artifact, backend=backend) as runtime:
        for at, stored in enumerate(runtime.artifact.widths):
            runtime.set(at)
            for batch in (1, 7):
                with torch.no_grad(), net.at(stored.widths):
                    expected = net(images[:batch]).numpy()
                [found] = runtime.run(images[:batch].numpy())
                np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_file_tells_what_the_run_knew(run, artifact):
    found = Artifact(artifact)
    assert found.labels == tuple("0123456789")
    assert found.preprocessing is not None
    assert found.preprocessing["channels"] == 1
    rows = json.loads((run / "evaluation.json").read_text())["widths"]
    accuracy = {row["label"]: row["figures"]["accuracy"] for row in rows}
    assert {each.name: each.accuracy["accuracy"] for each in found.widths} == {
        name: accuracy[name] for name in ("0.25", "0.5", "1.0")
    }


def test_bench_times_every_width_and_draws_them(run, artifact, tmp_path, capsys):
    figures, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    command = ["bench", str(artifact), "--runtime", "onnx,torch", "--rounds", "3", "--batch", "1,4", "--memory"]
    assert main([*command, "--json", str(figures), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[:3] == ["runtime", "width", "batch"]
    rows = json.loads(figures.read_text())["rows"]
    assert len(rows) == 2 * 3 * 2
    assert all(row["low"] <= row["milliseconds"] <= row["high"] for row in rows)
    assert all(row["throughput"] == pytest.approx(1e3 * row["batch"] / row["milliseconds"]) for row in rows)
    assert all(row["memory"]["peak"] >= 0 for row in rows)
    assert plot.read_text().startswith("<svg")
    command = ["export", str(run), "-o", str(tmp_path / "told.slim"), "--widths", "0.25,0.5", "--bench", str(figures)]
    command += ["--runtime", "onnx,torch"]
    assert main(command) == 0
    for stored in Artifact(tmp_path / "told.slim").widths:
        told = {(each.backend, each.batch): each.milliseconds for each in stored.latencies}
        assert told == {(r["backend"], r["batch"]): r["milliseconds"] for r in rows if r["width"] == stored.name}


def test_integers_take_a_quarter_of_the_size_and_answer_alike(run, artifact, tmp_path):
    path = tmp_path / "small.slim"
    command = ["export", str(run), "-o", str(path), "--widths", "0.25,0.5,1.0", "--store", "int8", "--samples", "64"]
    assert main(command) == 0
    weights = [
        sum(each.nbytes for name, each in Artifact(file)._tensors.items() if name.startswith(("weight/", "scale/")))
        for file in (artifact, path)
    ]
    assert weights[0] / weights[1] > 3.5
    images = next(iter(open_run(run).task.calibration_batches(samples=64, seed=0)))[0].numpy()
    with Runtime(artifact) as exact, Runtime(path) as rounded:
        for at in range(3):
            expected, found = exact.run(images, at=at)[0], rounded.run(images, at=at)[0]
            assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 20


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", "onnx"), ("torch-export", "pt2"), ("executorch", "pte")])
def test_one_width_is_an_ordinary_small_file(run, tmp_path, capsys, kind, suffix):
    sizes = []
    for width in ("0.25", "1.0"):
        path = tmp_path / f"{width}.{suffix}"
        assert main(["export", str(run), "-o", str(path), "--widths", width, "--standalone", kind]) == 0
        sizes.append(path.stat().st_size)
    net = open_run(run).net
    counts = [slimmable.parameters(net, net.space.uniform(ratio)) * 4 for ratio in (0.25, 1.0)]
    assert all(size <= 1.05 * count + 200_000 for size, count in zip(sizes, counts, strict=True))
    assert main(["export", str(run), "-o", str(path), "--widths", "0.25,0.5", "--standalone", kind]) == 2
    assert "a standalone file holds one" in capsys.readouterr().err


def fresh(folder, extra):
    """The Python of a new environment that has the library with one extra, and variables to run it with."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": ""}
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{ROOT}[{extra}]"]
    subprocess.run(install, check=True, env=environment, timeout=600)
    return python, environment


ALONE = """
import sys, time
began = time.perf_counter()
import slimmable.runtime
seconds = time.perf_counter() - began
import numpy as np
images = np.load("images.npy")
{example}
from slimmable.runtime import Runtime
with Runtime("model.slim") as runtime:
    outputs = [runtime.run(images, at=at)[0] for at in range(len(runtime.artifact.widths))]
np.save("outputs.npy", np.stack(outputs))
assert "torch" not in sys.modules and not __import__("importlib.util").util.find_spec("torch")
print(seconds)
"""


@pytest.mark.slow
def test_it_runs_where_torch_is_not_installed(run, artifact, tmp_path):
    """A fresh environment with the extra ``runtime`` alone, and the example of the README as it stands."""
    python, environment = fresh(tmp_path, "runtime")
    images = torch.randn(3, *[size for size in Artifact(artifact).inputs[0].shape if size is not None])
    np.save(tmp_path / "images.npy", images.numpy())
    (tmp_path / "model.slim").write_bytes(artifact.read_bytes())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.partition("<!-- deployment example -->")[2].partition("```python\n")[2].partition("```")[0]
    assert "AdaptiveModel" in example

    program = ALONE.format(example=example)
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.3 * (3 if "CI" in os.environ else 1)
    with Runtime(artifact) as runtime:
        expected = np.stack([runtime.run(images.numpy(), at=at)[0] for at in range(len(runtime.artifact.widths))])
    assert np.load(tmp_path / "outputs.npy").tobytes() == expected.tobytes()


@pytest.mark.slow
def test_bench_and_serve_run_where_torch_is_not_installed(artifact, tmp_path):
    """A fresh environment with the extra ``serve`` alone, which brings ``runtime`` and ``cli``."""
    python, environment = fresh(tmp_path, "serve")
    assert not list(tmp_path.glob("venv/lib/*/site-packages/torch"))
    command = [python.with_name("slimmable"), "bench", artifact, "--runtime", "onnx", "--rounds", "2"]

    done = subprocess.run(
        [*command, "--json", tmp_path / "bench.json", "--plot", tmp_path / "bench.svg"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 3
    command = [python.with_name("slimmable"), "serve", artifact, "--port", "0", "--profile", tmp_path / "profile.json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
        with urllib.request.urlopen(f"{address}/health", timeout=20) as answer:
            assert json.load(answer)["status"] == "ok"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
