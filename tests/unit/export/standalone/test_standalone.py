"""Ordinary single files: as PyTorch computes, no larger than their parameters, whole or not at all."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import slimmable
from slimmable.errors import CheckpointError, ExtractionError, MissingDependencyError
from slimmable.export.standalone import FORMATS, FormatName, load_tensors, write
from slimmable.export.standalone.writing import _WRITERS
from slimmable.runtime.base import Signature
from tests.unit.core.oracle import assert_same, shaken
from tests.unit.export.networks import CASES, Mobile, narrowed, signature

ONE = Signature(inputs=("x",), outputs=("y",))
SLOW = ("executorch", "aot-inductor")
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FORMATS]


def needs(name: str) -> None:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("case", ["mobile", "several", "attention"])
@pytest.mark.parametrize("name", ["onnx", "openvino", "torch-export", "safetensors"])
def test_files_are_written_and_have_been_compared(name, case, tmp_path):
    needs(name)
    module = narrowed(CASES[case])
    path = tmp_path / f"net{FORMATS[name].suffix}"
    files = write(module, CASES[case].inputs(2), path, format=name, signature=signature(CASES[case]))
    assert files[0] == path
    assert sorted(tmp_path.iterdir()) == sorted(files)


def wide() -> nn.Module:
    """A network that its parameters make large, cut to half its width."""
    net = nn.Sequential(nn.Conv2d(3, 128, 3), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 512, 1), nn.ReLU())
    whole = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1024), nn.Linear(1024, 10))
    elastic = slimmable.convert(shaken(whole).eval(), torch.zeros(1, 3, 64, 64), batch_norm="naive")
    return elastic.extract(elastic.space.uniform(0.5), fold_batch_norm=True)


@pytest.mark.parametrize("name", ALL)
def test_files_are_as_small_as_their_parameters_and_tell_nothing_of_this_machine(name, tmp_path):
    needs(name)
    module = wide()
    files = write(
        module, (torch.zeros(4, 3, 64, 64),), tmp_path / f"net{FORMATS[name].suffix}", format=name, signature=ONE
    )
    parameters = sum(each.numel() for each in module.parameters())
    code = 500_000 if name == "aot-inductor" else 200_000  # machine code is larger than a graph
    assert sum(each.stat().st_size for each in files) <= parameters * 4 * 1.05 + code
    if name != "aot-inductor":
        assert not [each for each in files if str(Path(__file__).parent).encode() in each.read_bytes()]


def test_every_format_has_a_writer_and_none_is_called_twice():
    assert list(FORMATS) == list(get_args(FormatName)) == list(_WRITERS)
    for name, each in FORMATS.items():
        assert each.name == name
        assert each.suffix.startswith(".")
        assert bool(each.packages) == bool(each.install)
        assert importlib.util.find_spec(f"slimmable.export.standalone.{_WRITERS[name]}")


def fake(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, names: Signature) -> Any:
        path.write_text("new")
        (path.parent / "beside").write_text("too")
        return lambda inputs: run(module(*inputs))

    monkeypatch.setattr(importlib.import_module("slimmable.export.standalone.torch_export"), "written", written)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda y: [y + 0.01 * y.abs().max()], "output 0 differs by 0.01 of its largest value"),
        (lambda y: [y * torch.nan], "differs by nan"),
        (lambda y: [y[:1]], "differs by nan"),
        (lambda y: [y, y], "has 2 outputs, the network 1"),
        (lambda y: 1 / 0, "does not run: division by zero"),
    ],
)
def test_a_file_that_computes_something_else_never_appears(run, message, tmp_path, monkeypatch):
    (tmp_path / "net.pt2").write_text("old")
    fake(monkeypatch, run)
    with pytest.raises(ExtractionError, match=message):
        write(nn.Linear(3, 2).eval(), (torch.ones(2, 3),), tmp_path / "net.pt2", format="torch-export", signature=ONE)
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_text() == "old"


def test_small_differences_pass_and_all_files_appear(tmp_path, monkeypatch):
    fake(monkeypatch, lambda y: [y * (1 + 1e-5)])
    path = tmp_path / "new" / "net.pt2"
    files = write(nn.Linear(3, 2).eval(), (torch.ones(2, 3),), path, format="torch-export", signature=ONE)
    assert [each.name for each in files] == ["net.pt2", "beside"]
    assert all(each.exists() for each in files)


def test_what_cannot_be_written_is_said_before(tmp_path, monkeypatch):
    def attempt(module: nn.Module, name: str, **options: Any) -> None:
        write(module, (torch.ones(2, 3),), tmp_path / name, **{"format": "torch-export", "signature": ONE, **options})

    net = nn.Linear(3, 2).eval()
    with pytest.raises(ExtractionError, match=r"net.onnx is no name for torch-export; expected .* ends with \.pt2"):
        attempt(net, "net.onnx")
    with pytest.raises(ExtractionError, match="no format 'tflite'; expected one of onnx, openvino"):
        attempt(net, "net.tflite", format="tflite")
    with pytest.raises(ExtractionError, match="training mode"):
        attempt(net.train(), "net.pt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        MissingDependencyError, match=r"onnx needs onnx, onnxscript, .*pip install 'slimmable\[export\]'"
    ):
        attempt(net.eval(), "net.onnx", format="onnx")
    assert not [*tmp_path.iterdir()]


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    path = tmp_path / "net.pt2"
    with pytest.raises(MissingDependencyError, match=r"none of g\+\+, clang\+\+, c\+\+ was found"):
        write(nn.Linear(3, 2).eval(), (torch.ones(2, 3),), path, format="aot-inductor", signature=ONE)


# ------------------------------------------------------------------------------------------------------- plain tensors


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[nn.Module, Path]:
    module = narrowed(CASES["mobile"])
    path = tmp_path_factory.mktemp("stored") / "net.safetensors"
    write(module, CASES["mobile"].inputs(2), path, format="safetensors", signature=ONE)
    return module, path


def test_the_original_network_takes_the_tensors_and_becomes_as_narrow(stored):
    module, path = stored
    found = load_tensors(Mobile(), path).eval()
    assert repr(found) == repr(module)
    assert_same(found.state_dict(), module.state_dict())
    x = CASES["mobile"].inputs(3)
    with torch.no_grad():
        torch.testing.assert_close(found(*x), module(*x))


def test_the_file_is_plain_safetensors_that_tells_its_shapes(stored):
    module, path = stored
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        assert {name: list(file.get_tensor(name).shape) for name in file.keys()} == shapes  # noqa: SIM118
    assert shapes == {name: list(each.shape) for name, each in module.state_dict().items()}


class Tied(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, width)
        self.c.weight = self.b.weight
        self.register_buffer("made", torch.ones(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x))) + self.made


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path):
    net = Tied().eval()
    write(net, (torch.ones(2, 3),), tmp_path / "net.safetensors", format="safetensors", signature=ONE)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert "c.weight" not in file.keys()  # noqa: SIM118
    found = load_tensors(Tied(), tmp_path / "net.safetensors")
    assert found.c.weight is found.b.weight
    assert_same(found.state_dict(), net.state_dict())


def test_a_file_of_another_network_or_a_damaged_one_is_refused(stored, tmp_path):
    _, path = stored
    with pytest.raises(CheckpointError, match="does not fit Tied"):
        load_tensors(Tied(), path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-1])
    save_file({"a": torch.ones(1)}, tmp_path / "other")
    for name in ("cut", "other"):
        with pytest.raises(CheckpointError, match="does not fit Mobile"):
            load_tensors(Mobile(), tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_tensors(Mobile(), tmp_path / "none")
