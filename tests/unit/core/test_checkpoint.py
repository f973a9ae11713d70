"""Networks on disk: everything comes back, and what is damaged or of another network is refused by name."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.core.checkpoint import network_metadata, network_tensors, restore_network
from slimmable.errors import CheckpointError
from tests.unit.core.oracle import assert_same, shaken
from tests.unit.core.test_batch_norm import BATCHES, IMAGES, converted, evaluated, network


@pytest.fixture
def saved(tmp_path: Path) -> tuple[SlimmableModel, Path]:
    """A calibrated network and its file."""
    net = converted()
    slimmable.calibrate(net, BATCHES, [net.space.uniform(0.5), net.space.smallest])
    slimmable.save(net, tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


def snapshot(net: SlimmableModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network_tensors(net).items()}


def rewritten(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str | None) -> Path:
    """The file with other tensors or metadata (None removes an entry)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        known = dict(file.metadata() or {})
    known = {key: value for key, value in (known | metadata).items() if value is not None}
    other = path.with_name("other.safetensors")
    save_file(load_file(path) if tensors is None else tensors, other, known)
    return other


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_everything_comes_back(saved):
    net, path = saved
    fresh = slimmable.convert(shaken(network(), seed=1).eval(), IMAGES, max_ratio=1.5)
    slimmable.load(fresh, path)
    assert fresh.calibrated == net.calibrated
    assert_same(snapshot(fresh), snapshot(net))
    for widths in net.calibrated:
        assert_same(evaluated(fresh, widths), evaluated(net, widths))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("options", ["private", "naive"])
def test_every_kind_of_batch_norm_comes_back(options, tmp_path):
    net = converted(options)
    slimmable.save(net, str(tmp_path / "net"))
    fresh = converted(options)
    with torch.no_grad():
        for tensor in network_tensors(fresh).values():
            tensor.zero_()
    slimmable.load(fresh, str(tmp_path / "net"))
    assert_same(snapshot(fresh), snapshot(net))
    assert_same(evaluated(fresh, net.space.base), evaluated(net, net.space.base))


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.b.weight = self.a.weight
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(self.stem(x)).relu()))

    nets = [slimmable.convert(shaken(Tied(), seed), torch.zeros(1, 3)) for seed in range(2)]
    slimmable.save(nets[0], tmp_path / "net")
    assert "model.b.weight" not in load_file(tmp_path / "net")
    slimmable.load(nets[1], tmp_path / "net")
    assert nets[1].model.b._parameters["weight"] is nets[1].model.a._parameters["weight"]
    x = torch.randn(2, 3)
    for widths in (nets[0].space.smallest, nets[0].space.largest):
        with nets[0].at(widths), nets[1].at(widths):
            assert_same(nets[1](x), nets[0](x))


def test_weights_in_channels_last_come_back(tmp_path):
    net = converted().to(memory_format=torch.channels_last)
    slimmable.save(net, tmp_path / "net")
    fresh = converted()
    slimmable.load(fresh, tmp_path / "net")
    assert_same(snapshot(fresh), snapshot(net))


@pytest.mark.parametrize("kept", [0, 5, 100, 2000, -1])
def test_a_truncated_file_is_refused(saved, kept):
    net, path = saved
    path.write_bytes(path.read_bytes()[:kept])
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=r"net\.safetensors cannot be read as a network"):
        slimmable.load(net, path)
    assert_same(snapshot(net), before)


def test_a_file_that_is_missing_or_no_such_file_at_all_is_refused(saved, tmp_path):
    net, path = saved
    with pytest.raises(CheckpointError, match="nowhere cannot be read"):
        slimmable.load(net, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        slimmable.load(net, tmp_path)
    path.write_bytes(os.urandom(5000))
    with pytest.raises(CheckpointError, match="cannot be read"):
        slimmable.load(net, path)
    torch.save(net.state_dict(), path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        slimmable.load(net, path)


def test_a_file_of_another_program_or_a_newer_version_is_refused(saved):
    net, path = saved
    with pytest.raises(CheckpointError, match=r"not a network written by slimmable\.save \(its format is None\)"):
        slimmable.load(net, rewritten(path, format=None))
    with pytest.raises(CheckpointError, match="newer version of slimmable; update"):
        slimmable.load(net, rewritten(path, version="999"))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"space": 3, "batch_norm": "naive", "tables": []}'])
def test_damaged_metadata_are_refused_by_our_own_error(saved, text):
    net, path = saved
    before = snapshot(net)
    with pytest.raises(CheckpointError):
        slimmable.load(net, rewritten(path, network=text))
    assert_same(snapshot(net), before)


def test_the_first_difference_of_another_structure_is_named(saved):
    net, path = saved
    before = snapshot(net)
    tensors = load_file(path)
    wrong = torch.zeros(7)
    cases = [
        (without(tensors, "model.3.bias"), r"no tensor 'model\.3\.bias', of shape \(64,\) here"),
        (tensors | {"model.3.bias": wrong}, r"'model\.3\.bias' has shape \(7,\) in the checkpoint and \(64,\) here"),
        (tensors | {"model.9.bias": wrong}, r"tensor 'model\.9\.bias' that this network does not have"),
        (without(tensors, "tables.1.mean_0"), r"no tensor 'tables\.1\.mean_0', of shape \("),
        (tensors | {"tables.1.mean_0": wrong}, r"'tables\.1\.mean_0' has shape \(7,\) in the checkpoint"),
    ]
    for other, message in cases:
        with pytest.raises(CheckpointError, match=message):
            slimmable.load(net, rewritten(path, other))
        assert_same(snapshot(net), before)


def test_another_space_is_refused_by_the_first_difference(saved):
    _, path = saved
    wider = slimmable.convert(network(b=48), IMAGES, max_ratio=1.5)
    with pytest.raises(CheckpointError, match=r"width group is .*base=40.* here it is .*base=48"):
        slimmable.load(wider, path)
    fewer = slimmable.convert(network(), IMAGES, max_ratio=1.5, exclude=["3"])
    with pytest.raises(CheckpointError, match="has 2 width groups, this network has 1"):
        slimmable.load(fewer, path)
    tied = slimmable.convert(network(), IMAGES, max_ratio=1.5, tie=[["*"]])
    with pytest.raises(CheckpointError, match=r"ties \(\); here they are .* \(\('0', '3'\),\)"):
        slimmable.load(tied, path)
    private = slimmable.convert(network(), IMAGES, max_ratio=1.5, switches=[1.0])
    with pytest.raises(CheckpointError, match="batch norm is calibrated, this network's is private"):
        slimmable.load(private, path)


def test_a_failure_to_write_leaves_the_old_file(saved, monkeypatch):
    net, path = saved
    before = path.read_bytes()

    def fail(*_args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        slimmable.save(net, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_tensors_and_metadata_are_all_a_checkpoint_needs():
    net = converted()
    slimmable.calibrate(net, BATCHES, [net.space.smallest])
    tensors = snapshot(net)
    metadata = json.loads(json.dumps(network_metadata(net)))
    fresh = copy.deepcopy(converted())
    restore_network(fresh, tensors, metadata)
    assert_same(evaluated(fresh, net.space.smallest), evaluated(net, net.space.smallest))
