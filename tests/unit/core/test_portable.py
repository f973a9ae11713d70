"""A network runs, trains and is searched from its file alone, bit for bit as with its code."""

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.core.graphs import resolved
from slimmable.core.portable import packed, unpacked
from slimmable.core.program import Program
from slimmable.errors import CheckpointError, DataError
from tests.unit.core.oracle import assert_same, images, shaken
from tests.unit.core.test_rules_attention import Embedded, Packed


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """Residual sum, depthwise convolution, squeeze and excitation, dropout, a constant, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.up, self.norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)
        self.depthwise, self.squeeze = nn.Conv2d(32, 32, 3, padding=1, groups=32), Squeeze(32)
        self.down, self.drop, self.head = nn.Conv2d(32, 16, 1), nn.Dropout(0.3), nn.Linear(64, 4)
        self.register_buffer("shift", torch.tensor([0.0, 1.0, 2.0, 3.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(self.squeeze(self.depthwise(torch.relu(self.norm(self.up(x))))))
        x = F.adaptive_avg_pool2d(x, 2).view(x.shape[0], -1)
        return self.head(self.drop(x)) + self.shift * torch.tensor([0.5])


class Shuffled(nn.Module):
    """Grouped convolutions with a shuffle between them; a block that training leaves out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=3, padding=1)
        self.c, self.head = nn.Conv2d(24, 24, 1, groups=3), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        n, c, h, w = y.shape
        z = self.c(y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w))
        if self.training:
            z = z * torch.bernoulli(torch.full((n, 1, 1, 1), 0.5)) / 0.5
        return self.head(y + z)


Outputs = namedtuple("Outputs", ["total", "each"])


class Several(nn.Module):
    """Two inputs, one of them in a tuple; a nested output; an auxiliary head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.aux = nn.Linear(3, 16), nn.Linear(5, 16), nn.Linear(32, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor, others: tuple[Tensor, int]) -> Any:
        a, b = self.a(x).relu(), self.b(others[0]).relu() * others[1]
        each = {"a": a.sum(1), "b": [b.mean(1), None]}
        if self.training:
            each["aux"] = self.aux(a)
        return Outputs(self.head(torch.cat([a, b], 1)), each)


def attention() -> nn.Module:
    return Embedded(Packed(16, 4, F.scaled_dot_product_attention), 16)


TOKENS = (torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)),)
PAIR = (torch.ones(2, 3), (torch.ones(2, 5), 3))
CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "residual": (Residual, (images(batch=1),), {}),
    "wider": (Residual, (images(batch=2),), {"max_ratio": 1.5, "averaged": True}),
    "switches": (Residual, (images(batch=2),), {"switches": [1.0, 0.5]}),
    "naive": (Residual, (images(batch=2),), {"batch_norm": "naive", "exclude": ["up"]}),
    "shuffled": (Shuffled, (images(batch=2),), {"divisor": 3}),
    "attention": (attention, TOKENS, {"divisor": 1}),
    "several": (Several, PAIR, {"tie": [["a", "b"]]}),
}


def larger(value: Any, batch: int) -> Any:
    """Inputs as those of the example, for another batch size."""
    if isinstance(value, Tensor):
        return torch.randn(batch, *value.shape[1:], generator=torch.Generator().manual_seed(1))
    return tuple(larger(each, batch) for each in value) if isinstance(value, tuple) else value


def saved(name: str, folder: Path, *, seed: int = 0) -> tuple[SlimmableModel, Path, tuple[Any, ...]]:
    """A calibrated network, its file, and its example."""
    build, inputs, options = CASES[name]
    net = slimmable.convert(shaken(build(), seed).eval(), inputs, **options)
    if net.batch_norm == "calibrated" and net.has_batch_norm:
        slimmable.calibrate(net, [larger(inputs[0], 8)], [net.space.uniform(0.5), net.space.smallest])
    slimmable.save(net, folder / "net.safetensors")
    return net, folder / "net.safetensors", inputs


def widths_of(net: SlimmableModel) -> list[slimmable.Widths]:
    known = list(net.calibrated) if net.has_batch_norm and net.batch_norm != "naive" else []
    return known or [net.space.largest, net.space.uniform(0.5), net.space.smallest]


def test_inputs_by_name_are_refused_by_a_network_from_its_file(tmp_path):
    net, path, inputs = saved("several", tmp_path)
    net(x=inputs[0], others=inputs[1])
    with pytest.raises(DataError, match=r"takes its inputs by position.*; got others by name"):
        slimmable.load(path)(inputs[0], others=inputs[1])


@pytest.mark.parametrize("name", CASES)
def test_a_network_from_its_file_is_the_network(name, tmp_path):
    net, path, inputs = saved(name, tmp_path)
    other = slimmable.load(path)
    assert (other.space, other.calibrated, other.widths, other.switches) == (
        net.space,
        net.calibrated,
        net.widths,
        net.switches,
    )
    assert str(other.report) == str(net.report)
    for widths in widths_of(net):
        assert slimmable.macs(other, widths) == slimmable.macs(net, widths)
        assert slimmable.parameters(other, widths) == slimmable.parameters(net, widths)
        assert slimmable.activation_bytes(other, widths) == slimmable.activation_bytes(net, widths)
        for batch in (1, 2, 5):
            x = larger(inputs, batch)
            with net.at(widths), other.at(widths), torch.no_grad():
                assert_same(tensors(other(*x)), tensors(net(*x)))
        extracted = other.extract(widths)
        with other.at(widths):
            torch.testing.assert_close(tensors(extracted(*x)), tensors(other(*x)))
    assert_trains_alike(net, other, larger(inputs, 6))


def tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, dict):
        return [each for part in outputs.values() for each in tensors(part)]
    if isinstance(outputs, list | tuple):
        return [each for part in outputs for each in tensors(part)]
    return [outputs] if isinstance(outputs, Tensor) else []


def assert_trains_alike(net: SlimmableModel, other: SlimmableModel, inputs: tuple[Any, ...]) -> None:
    """Equal gradients and equal running statistics, at every width and with every draw of chance."""
    for each in (net.train(), other.train()):
        torch.manual_seed(0)
        for widths in net.switches or (net.space.largest, net.space.smallest):
            with each.at(widths):
                sum(out.square().sum() for out in tensors(each(*inputs))).backward()
    ours, theirs = dict(net.named_parameters()), dict(other.named_parameters())
    assert list(ours) == list(theirs)
    for name, parameter in ours.items():
        found = theirs[name].grad
        assert (found is None) == (parameter.grad is None), name
        if found is not None and parameter.grad is not None:
            assert torch.equal(found, parameter.grad), name
    assert_same_buffers(net, other)


def assert_same_buffers(net: SlimmableModel, other: SlimmableModel) -> None:
    """Equal buffers by name; constants of the code are buffers of a program too."""
    theirs = dict(other.named_buffers())
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, theirs[name]), name


def test_a_module_in_evaluation_mode_stays_so_while_the_others_train(tmp_path):
    net, path, inputs = saved("residual", tmp_path)
    for each in (net.train(), other := slimmable.load(path).train()):
        each.model.get_submodule("stem").eval()
        each.model.get_submodule("head").requires_grad_(False)
        each.set(each.space.smallest)
        torch.manual_seed(0)
        each(larger(inputs[0], 4)).sum().backward()
    assert_same_buffers(net, other)
    slimmable.save(other, path)
    again = slimmable.load(path)
    assert [m.training for m in again.modules()] == [m.training for m in other.modules()]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in other.parameters()]
    assert again.widths == net.space.smallest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_tiny"])
def test_networks_of_torchvision_and_timm_run_from_their_files(name, tmp_path):
    if name == "mobilenet_v2":
        plain = pytest.importorskip("torchvision").models.mobilenet_v2(num_classes=10)
    else:
        plain = pytest.importorskip("timm").create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    net = slimmable.convert(plain.eval(), images(size=64, batch=1))
    slimmable.save(net, tmp_path / "net")
    graph = load_file(tmp_path / "net")["portable.graph"]
    assert graph.numel() < 20_000 < (tmp_path / "net").stat().st_size / 100
    other = slimmable.load(tmp_path / "net")
    with torch.no_grad():
        assert_same(other(images(size=64, batch=3)), net(images(size=64, batch=3)))
    assert_trains_alike(net, other, (images(size=64, batch=3),))


def test_a_process_without_the_class_runs_the_network(tmp_path):
    net, path, inputs = saved("residual", tmp_path)
    x = larger(inputs[0], 3)
    torch.save(x, tmp_path / "x")
    code = (
        "import sys, torch, slimmable\n"
        "net = slimmable.load(sys.argv[1])\n"
        "net.set(net.space.smallest)\n"
        "torch.save(net(torch.load(sys.argv[2])), sys.argv[3])\n"
        "print([name for name in sys.modules if name.startswith(('tests', 'torchvision', 'timm'))])\n"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "x"), str(tmp_path / "y")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    with net.at(net.space.smallest):
        assert_same(torch.load(tmp_path / "y"), net(x))


def test_other_inputs_than_those_of_the_example_are_refused(tmp_path):
    _, path, _ = saved("several", tmp_path)
    net = slimmable.load(path)
    with pytest.raises(DataError, match=r"inputs of shape \(any batch, 3\), got \(2, 4\)"):
        net(torch.ones(2, 4), (torch.ones(2, 5), 3))
    with pytest.raises(DataError, match=r"inputs of shape \(any batch, 5\), got \(3, 5\)"):
        net(torch.ones(2, 3), (torch.ones(3, 5), 3))
    with pytest.raises(DataError, match=r"it takes 3 where 4 was given"):
        net(torch.ones(2, 3), (torch.ones(2, 5), 4))
    with pytest.raises(DataError, match=r"it takes a tuple of 2 where a tuple of 1 was given"):
        net(torch.ones(2, 3))


class Pairs(nn.Module):
    """Rows in pairs, which an odd batch does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[: x.shape[0] // 2 * 2 - x.shape[0] % 3])


def test_code_that_follows_the_batch_otherwise_runs_at_the_batch_of_the_example(tmp_path):
    net = slimmable.convert(Pairs(), torch.ones(4, 3))
    slimmable.save(net, tmp_path / "net")
    other = slimmable.load(tmp_path / "net")
    assert_same(other(torch.ones(4, 3)), net(torch.ones(4, 3)))
    with pytest.raises(DataError, match=r"inputs of shape \(4, 3\), got \(5, 3\)"):
        other(torch.ones(5, 3))


class Root(nn.Module):
    """A factor that the code computes from a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / x.shape[1] ** 0.5)


def test_a_number_computed_from_a_width_is_no_part_of_a_graph_and_the_file_says_so(tmp_path):
    net = slimmable.convert(Root(), torch.ones(2, 3))
    slimmable.save(net, tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"holds no graph: argument other of aten.div.* computes it from a width"):
        slimmable.load(tmp_path / "net")
    fresh = slimmable.convert(Root(), torch.ones(2, 3))
    slimmable.load(fresh, tmp_path / "net")
    assert_same(fresh(torch.ones(1, 3)), net(torch.ones(1, 3)))


@pytest.mark.parametrize("name", CASES)
def test_batch_norm_folds_as_in_the_network_of_the_code(tmp_path, name):
    first, path, inputs = saved(name, tmp_path)
    net = slimmable.load(path).eval()
    for widths in widths_of(net):
        folded = net.extract(widths, fold_batch_norm=True)
        with net.at(widths), torch.no_grad():
            torch.testing.assert_close(folded(*inputs), net(*inputs), rtol=1e-4, atol=1e-4)
        if name != "wider":  # a program multiplies outputs of averaged layers itself
            expected = dict(first.extract(widths, fold_batch_norm=True).named_parameters())
            found = dict(folded.named_parameters())
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[each], parameter) for each, parameter in expected.items())


# ------------------------------------------------------------------------------------------- files that do not fit


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return saved("several", tmp_path_factory.mktemp("saved"))[1]


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def rewritten(path: Path, folder: Path, *, graph: Any = None, **metadata: str | None) -> Path:
    """The file with another graph or other metadata (None removes an entry)."""
    known = {key: value for key, value in (metadata_of(path) | metadata).items() if value is not None}
    tensors = load_file(path)
    if graph is not None:
        tensors["portable.graph"] = torch.tensor(list(graph), dtype=torch.uint8)
    save_file(tensors, folder / "other", known)
    return folder / "other"


def graph_of(path: Path) -> Any:
    return unpacked(load_file(path)["portable.graph"].numpy().tobytes())


@pytest.mark.parametrize("content", [b"", b"nothing", packed(3), packed({}), packed({"options": {}}), packed([])])
def test_a_damaged_graph_is_refused(path, tmp_path, content):
    with pytest.raises(CheckpointError, match=r"damaged"):
        slimmable.load(rewritten(path, tmp_path, graph=content))


@pytest.mark.parametrize(
    "name", ["aten.no_such.default", "aten.from_file.default", "aten.relu", "os.system.default", "load_library.a.b"]
)
def test_an_operator_that_is_not_known_is_named(path, tmp_path, name):
    graph = graph_of(path)
    graph["graphs"]["evaluation"]["calls"][0][1] = name
    with pytest.raises(CheckpointError, match=f"operator '{name}', which is not known here"):
        slimmable.load(rewritten(path, tmp_path, graph=packed(graph)))
    with pytest.raises(CheckpointError):
        resolved(name)


def test_every_missing_piece_of_a_graph_is_noticed(path, tmp_path):
    graph = graph_of(path)
    for key in graph:
        other = {name: value for name, value in graph.items() if name != key}
        with pytest.raises(CheckpointError, match="damaged"):
            slimmable.load(rewritten(path, tmp_path, graph=packed(other)))


def test_a_file_of_the_first_version_is_read_into_a_network_and_refused_alone(path, tmp_path):
    old = rewritten(path, tmp_path, version="1", structure=None, fingerprint=None, run=None, no_graph=None)
    tensors = {name: tensor for name, tensor in load_file(old).items() if not name.startswith("portable.")}
    save_file(tensors, old, metadata_of(old))
    build, inputs, options = CASES["several"]
    net = slimmable.convert(build().eval(), inputs, **options)
    slimmable.load(net, old)
    x = larger(inputs, 3)
    assert_same(tensors_of(net, x), tensors_of(slimmable.load(path), x))
    with pytest.raises(CheckpointError, match=r"stored no graph; convert the network .*slimmable\.load\(net, path\)"):
        slimmable.load(old)


def tensors_of(net: SlimmableModel, inputs: tuple[Any, ...]) -> list[Tensor]:
    return tensors(net(*inputs))


def test_metadata_say_who_belongs_to_a_group_and_what_the_structure_is(path):
    metadata = metadata_of(path)
    structure = json.loads(metadata["structure"])
    assert structure["groups"] == [
        {"name": "a", "producers": ["a"], "consumers": ["head", "aux"]},
        {"name": "b", "producers": ["b"], "consumers": ["head"]},
    ]
    assert structure["tensors"]["head.weight"] == [4, [["a", 1, 1], ["b", 1, 1]]]
    assert ["aten.cat.default", ""] in structure["operators"]
    assert json.loads(metadata["run"])["widths"] == {"a": 16, "b": 16}


class Other(Several):
    """The same groups and tensors; another operator."""

    def forward(self, x: Tensor, others: tuple[Tensor, int]) -> Any:
        found = super().forward(x, others)
        return Outputs(found.total.sigmoid(), found.each)


class Swapped(Several):
    """The same groups; the head reads them in another order."""

    def forward(self, x: Tensor, others: tuple[Tensor, int]) -> Any:
        a, b = self.a(x).relu(), self.b(others[0]).relu()
        return self.head(torch.cat([b, a], 1)), self.aux(a)


@pytest.mark.parametrize(
    ("build", "difference"),
    [
        (Other, r"calls \d+ operators, this one \d+: they are the same up to"),
        (
            Swapped,
            r"tensor .head.weight. has axes .4, ...a., 1, 1.*in the checkpoint and .4, ...b., 1, 1",
        ),
    ],
)
def test_the_first_difference_of_another_structure_is_named(path, build, difference):
    net = slimmable.convert(build().eval(), PAIR, tie=[["a", "b"]])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items() if isinstance(tensor, Tensor)}
    with pytest.raises(CheckpointError, match=difference):
        slimmable.load(net, path)
    assert_same([net.state_dict()[name] for name in before], list(before.values()))


def test_a_wrong_fingerprint_is_damage(path, tmp_path):
    with pytest.raises(CheckpointError, match="does not have its fingerprint"):
        slimmable.load(rewritten(path, tmp_path, fingerprint="0" * 64))


def test_a_network_that_came_from_a_file_is_written_again(path, tmp_path):
    net = slimmable.load(path)
    slimmable.save(net, tmp_path / "again")
    assert isinstance(net.model, Program)
    assert metadata_of(tmp_path / "again") == metadata_of(path)
    ours, theirs = load_file(tmp_path / "again"), load_file(path)
    assert list(ours) == list(theirs)
    assert_same(ours, theirs)
