"""The file itself: readable without pickle, whole or absent, and honest about what is wrong with it."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimmable import record
from slimmable.errors import CheckpointError
from slimmable.train import AdamW, Sandwich, TrainSettings, checkpoint, fit, load_trained
from tests.unit.train.toy import ToyTask, toy_net

SETTINGS = TrainSettings(epochs=2, optimizer=AdamW(), lr=0.01, ema_decay=0.5)


def run(net, folder, **options):
    return fit(net, ToyTask(), sampler=Sandwich(net.space), settings=SETTINGS, folder=folder, progress=False, **options)


def test_it_is_a_plain_safetensors_file(tmp_path):
    run(toy_net(), tmp_path)
    with safe_open(str(tmp_path / "last.safetensors"), framework="pt") as file:
        rooms = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118 (not a mapping)
        assert list(file.metadata()) == ["slimmable.train"]
    assert rooms == {"network", "optimizer", "average"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "record.json"]


def test_the_trained_network_is_read_without_the_run(tmp_path):
    net, other = toy_net(), toy_net(seed=1)
    run(net, tmp_path)
    load_trained(other, tmp_path / "last.safetensors")
    found = dict([*other.named_parameters(), *other.named_buffers()])
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert torch.equal(found[name], tensor), name


def test_restored_buffers_lie_as_their_parameters_do(tmp_path):
    net = toy_net()
    run(net, tmp_path)
    state = checkpoint.RunState(
        net=net.to(memory_format=torch.channels_last),
        optimizer=SETTINGS.optimizer.build([{"params": list(net.parameters())}], lr=0.1),
        average=None,
        sampler=Sandwich(net.space),
        progress=checkpoint.Progress(),
    )
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    checkpoint.save_checkpoint(state, tmp_path / "again.safetensors", settings=SETTINGS)
    checkpoint.load_checkpoint(state, tmp_path / "again.safetensors", settings=SETTINGS)
    for parameter, entries in state.optimizer.state.items():
        assert entries["exp_avg"].stride() == parameter.stride()


def test_everybody_may_read_it(tmp_path):
    run(toy_net(), tmp_path)
    assert (tmp_path / "last.safetensors").stat().st_mode == (tmp_path / "record.json").stat().st_mode


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    run(toy_net(), tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(record.os, "fsync", full)
    net = toy_net()
    state = checkpoint.RunState(
        net=net,
        optimizer=SETTINGS.optimizer.build([{"params": list(net.parameters())}], lr=0.1),
        average=None,
        sampler=Sandwich(net.space),
        progress=checkpoint.Progress(),
    )
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_checkpoint(state, tmp_path / "last.safetensors", settings=SETTINGS)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "record.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_trained(toy_net(), tmp_path / "none.safetensors")


def test_a_damaged_file_is_named(tmp_path):
    run(toy_net(), tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        run(toy_net(), tmp_path, resume=True)


def test_another_kind_of_file_is_named(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="training checkpoint version None; expected 1"):
        load_trained(toy_net(), tmp_path / "other.safetensors")
