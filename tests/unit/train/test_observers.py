"""What people see of a run."""

import importlib
import io

import pytest
from rich.console import Console

from slimmable.errors import MissingDependencyError
from slimmable.train import Sandwich, TrainSettings, fit, observers
from slimmable.train.terminal import TerminalProgress
from tests.unit.train.toy import ToyTask, toy_net


def test_a_terminal_gets_a_line_per_epoch():
    screen = io.StringIO()
    watcher = TerminalProgress(
        epochs=2, metric="accuracy", console=Console(file=screen, force_terminal=True, width=200)
    )
    net = toy_net()
    sampler, settings = Sandwich(net.space), TrainSettings(epochs=2)
    fit(net, ToyTask(), sampler=sampler, settings=settings, progress=False, observers=[watcher])
    assert "epoch 1/2  loss " in screen.getvalue()
    assert "epoch 2/2  loss " in screen.getvalue()
    assert "accuracy" in screen.getvalue()


def test_curves_are_written_into_the_folder(tmp_path):
    pytest.importorskip("tensorboard")
    net = toy_net()
    sampler, settings = Sandwich(net.space), TrainSettings(epochs=1)
    fit(net, ToyTask(), sampler=sampler, settings=settings, folder=tmp_path, progress=False, curves=True)
    (events,) = (tmp_path / "curves").iterdir()
    content = events.read_bytes()
    assert b"train/loss of the widest" in content
    assert b"validation/accuracy of width 1" in content


def test_missing_tensorboard_says_how_to_get_it(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        observers.TensorBoardCurves(tmp_path)
