"""One sub-network in one file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from slimmable import macs
from slimmable.errors import CalibrationError, CheckpointError, ExtractionError
from slimmable.recipes import open_subnetwork, write_subnetwork
from slimmable.recipes.widths import NamedWidths, name_ratios


@pytest.fixture
def half(opened):
    return name_ratios((0.5,), opened.net.space)[0]


def outputs(opened, half):
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), opened.net.at(half.widths):
        return images, opened.net(images)


def test_it_comes_back_as_a_plain_network_equal_to_the_bit(opened, half, tmp_path):
    write_subnetwork(opened, half, tmp_path / "half.safetensors")

    plain = open_subnetwork(tmp_path / "half.safetensors")

    images, expected = outputs(opened, half)
    with torch.no_grad():
        assert torch.equal(plain(images), expected)
    assert not plain.training
    assert all("slimmable.core" not in type(module).__module__ for module in plain.modules())


def test_folded_it_holds_no_batch_norm(opened, half, tmp_path):
    manifest = write_subnetwork(opened, half, tmp_path / "half.safetensors", fold_batch_norm=True)

    plain = open_subnetwork(tmp_path / "half.safetensors")

    images, expected = outputs(opened, half)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert manifest["parameters"] == sum(parameter.numel() for parameter in plain.parameters())


def test_the_file_says_what_it_is(opened, half, tmp_path):
    written = write_subnetwork(opened, half, tmp_path / "half.safetensors")

    with safe_open(tmp_path / "half.safetensors", framework="pt") as file:
        found = json.loads(file.metadata()["manifest"])
        held = sum(file.get_tensor(name).numel() for name in file.keys() if "running" not in name)  # noqa: SIM118
    assert found == written
    assert found["macs"] == macs(opened.net, half.widths)
    assert found["widths"] == half.widths.to_json()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in opened.net.modules())
    assert found["parameters"] == found["parameters_unfolded"] == held - norms


def test_widths_without_statistics_are_refused(opened, tmp_path):
    [strange] = name_ratios((0.3,), opened.net.space)
    with pytest.raises(CalibrationError, match=r"at widths 0\.3"):
        write_subnetwork(opened, strange, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_give_the_same_output_is_not_kept(opened, half, tmp_path, monkeypatch):
    other = NamedWidths(label="other", widths=opened.net.space.largest)
    monkeypatch.setattr(
        "slimmable.recipes.subnetwork.open_subnetwork", lambda _: opened.net.extract(other.widths).eval()
    )
    with pytest.raises(ExtractionError, match=r"gives outputs .* apart from the elastic network's; expected at most 0"):
        write_subnetwork(opened, half, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_file_is_a_clear_error(finished, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read as a sub-network"):
        open_subnetwork(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="has format 'slimmable network'"):
        open_subnetwork(finished[0] / "network.safetensors")


def test_a_file_that_lacks_a_tensor_is_a_clear_error(opened, half, tmp_path):
    path = tmp_path / "half.safetensors"
    write_subnetwork(opened, half, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "fc.weight"}  # noqa: SIM118
    save_file(tensors, path, metadata)

    with pytest.raises(CheckpointError, match=r"does not fit the network it names: .*fc\.weight"):
        open_subnetwork(path)
