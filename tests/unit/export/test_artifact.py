import json
import math
from random import Random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import slimmable
from slimmable import SlimmableModel
from slimmable.core.space import Widths
from slimmable.errors import ArtifactError, CalibrationError, ExtractionError
from slimmable.export import artifact
from slimmable.export.artifact import Facts, write_artifact
from slimmable.export.graph import Graph
from slimmable.models import build_model, resnet_cifar
from slimmable.runtime.artifact import Artifact, deflated, inflated
from slimmable.runtime.base import Layout
from slimmable.runtime.manifest import Latency


class Joined(nn.Module):
    """Two branches side by side, a grouped and a transposed convolution, shared weights, a head behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.grouped = nn.Sequential(nn.Conv2d(40, 32, 3, padding=1, groups=2), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), nn.BatchNorm2d(16), nn.PReLU(16))
        self.twice = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.up(self.grouped(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))))
        x = nn.functional.avg_pool2d(self.twice(self.twice(x)), 4)
        return {"scores": self.head(x.flatten(1)), "features": x}


def names_alone(module: nn.Module, example: tuple, signature: object) -> Graph:
    """What an exporter gives that takes every tensor."""
    names = [*dict(module.named_parameters()), *(n for n, _ in module.named_buffers() if "num_batches" not in n)]
    extra = {"constant": np.arange(3.0)}
    return Graph(content=json.dumps(names).encode(), parts=tuple(names), extra=extra)


@pytest.fixture(autouse=True)
def no_runtime(monkeypatch):
    monkeypatch.setattr(artifact, "exporter", lambda backend: names_alone)


def spoilt(net: SlimmableModel) -> SlimmableModel:
    """Weights, gains and statistics that are nobody's defaults."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


NETWORKS = {
    "joined": lambda: Joined(),
    "mobilenet_v2": lambda: build_model("mobilenet_v2", num_classes=7, width=0.25).model,
    "mobilenet_v3": lambda: build_model("mobilenet_v3_small", num_classes=7, width=0.5).model,
    "resnet": lambda: resnet_cifar(20),
}


def converted(name: str, **how) -> tuple[SlimmableModel, torch.Tensor, list[Widths]]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8) if name == "joined" else torch.randn(2, 3, 32, 32)
    net = spoilt(slimmable.convert(NETWORKS[name](), x, **how)).eval()
    random = Random(1)
    widths = [net.space.largest, net.space.smallest, net.space.random(random), net.space.random(random)]
    widths = list(net.switches) or list(dict.fromkeys(widths))
    if net.batch_norm == "calibrated":
        slimmable.calibrate(net, [x, x + 1], widths)
    else:
        net.train()
        for each in widths:
            with net.at(each), torch.no_grad():
                net(x)
        net.eval()
    return net, x, widths


def written(tmp_path, net, x, widths, **how) -> Artifact:
    named = {f"w{at}": each for at, each in enumerate(widths)}
    return write_artifact(net, tmp_path / "model.slim", named, example_inputs=x, **how)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", [{}, {"max_ratio": 1.5}, {"averaged": True}, {"switches": (0.5, 1.0)}], ids=str)
def test_every_tensor_of_every_width_comes_out_as_extraction_gives_it(tmp_path, name, how):
    net, x, widths = converted(name, **how)

    found = written(tmp_path, net, x, widths)

    assert len(found.widths) == len(widths)
    for at, stored in enumerate(found.widths):
        plain = net.extract(stored.widths, fold_batch_norm=True)
        expected = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
        for order in ("contiguous", "channels_last"):
            made = found.arrays("onnx", at, layout=Layout(order=order))
            assert made.pop("constant").tolist() == [0, 1, 2]
            assert made.keys() == {name for name in expected if "num_batches" not in name}
            for name_, array in made.items():
                assert array.tobytes() == expected[name_].detach().numpy().tobytes()
                if order == "channels_last" and array.ndim == 4:
                    assert array.transpose(0, 2, 3, 1).flags.c_contiguous
        assert json.loads(found.graph("onnx", at)) == list(found.manifest.graphs["onnx"].parts[at])


def test_what_is_told_beside_the_network_comes_back(tmp_path):
    net, x, widths = converted("joined")
    latency = Latency(backend="onnx", device="a board", threads=1, batch=1, milliseconds=2.5)
    facts = Facts(
        name="joined",
        accuracy={"w1": {"accuracy": 0.5}},
        latencies={"w0": [latency]},
        labels=list("abcde"),
        preprocessing={"size": [8, 8]},
    )

    found = written(tmp_path, net, x, widths, facts=facts)

    by_name = {each.name: each for each in found.widths}
    assert by_name["w1"].accuracy == {"accuracy": 0.5}
    assert by_name["w0"].latencies == (latency,)
    assert (found.name, found.labels, found.preprocessing) == ("joined", tuple("abcde"), {"size": [8, 8]})
    assert [(each.name, each.shape) for each in found.inputs] == [("input", (None, 3, 8, 8))]
    assert [each.name for each in found.outputs] == ["scores", "features"]
    costs = [each.costs["macs"].value for each in found.widths]
    assert costs == sorted(costs) == [float(slimmable.macs(net, each.widths)) for each in found.widths]
    assert found.index("w1") == found.index(widths[1]) == found.index(found.index("w1"))
    with pytest.raises(ArtifactError, match=r"does not hold the width 0\.3; it holds 0 \("):
        found.index(0.3)


def test_facts_are_plain_values_that_come_back(tmp_path):
    net, x, widths = converted("joined")
    facts = Facts(
        accuracy={"w0": {"top1": np.float32(0.5), "top5": torch.tensor(0.75), "loss": None}},
        labels=range(3),
        preprocessing={"size": (8, 8), "mean": (0.5,)},
    )
    found = written(tmp_path, net, x, widths, facts=facts)
    accuracy = next(each.accuracy for each in found.widths if each.name == "w0")
    assert accuracy == {"top1": 0.5, "top5": 0.75}
    assert found.labels == ("0", "1", "2")
    assert found.preprocessing == {"size": [8, 8], "mean": [0.5]}


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"accuracy": {"w0": {"top1": math.nan}}}, "top1 is nan.*leave that figure out"),
        ({"accuracy": {"w0": {"top1": "good"}}}, "top1 is 'good'.*finite numbers"),
        ({"preprocessing": {"mean": np.zeros(3)}}, "preprocessing cannot be stored.*plain numbers and lists"),
        ({"preprocessing": {"mean": [math.inf]}}, "preprocessing cannot be stored"),
    ],
)
def test_facts_that_no_file_can_tell_are_refused_at_once(facts, told):
    with pytest.raises(ExtractionError, match=told):
        Facts(**facts)


class Masked(nn.Module):
    """Adds minus infinity, as masks of attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layer(x))) + self.mask


@pytest.mark.parametrize("tables", ["float32", "float16"])
def test_a_mask_of_minus_infinity_is_no_overflow(tmp_path, tables):
    x = torch.randn(4, 8)
    net = slimmable.convert(Masked(), x).eval()
    slimmable.calibrate(net, [x], [net.space.largest])
    found = written(tmp_path, net, x, [net.space.largest], tables=tables)
    np.testing.assert_array_equal(found.arrays("onnx", 0)["mask"], net.model.mask.numpy())


def test_any_reader_of_safetensors_opens_the_file(tmp_path):
    net, x, widths = converted("joined")
    written(tmp_path, net, x, widths)
    with safe_open(tmp_path / "model.slim", framework="pt") as file:
        assert torch.equal(file.get_tensor("weight/left.weight"), net.model.left._parameters["weight"])


def test_tables_of_half_precision_halve_a_width_and_are_those_of_a_network_that_was_rounded(tmp_path):
    net, x, widths = converted("mobilenet_v2")
    for parameter in net.parameters():
        parameter.data.mul_(0.1)
    slimmable.calibrate(net, [x, x + 1], widths)
    whole, half = written(tmp_path, net, x, widths), written(tmp_path / "half", net, x, widths, tables="float16")
    sizes = [
        sum(each.nbytes for name, each in found._tensors.items() if name.startswith("table/"))
        for found in (whole, half)
    ]
    assert sizes[1] * 2 == sizes[0]
    exact, rounded = whole.arrays("onnx", 0), half.arrays("onnx", 0)
    for name, array in exact.items():
        np.testing.assert_allclose(rounded[name], array, rtol=2e-3, atol=1e-6)


def test_factors_beyond_half_precision_are_refused(tmp_path):
    net, x, widths = converted("joined", switches=(0.5, 1.0))
    for name, parameter in net.named_parameters():
        if "tables" in name and "weight" in name:
            parameter.data.mul_(1e8)
    with pytest.raises(ExtractionError, match="write them in float32"):
        written(tmp_path, net, x, widths, tables="float16")
    assert not (tmp_path / "model.slim").exists()


def test_a_width_without_statistics_is_refused(tmp_path):
    net, x, _ = converted("joined")
    with pytest.raises(CalibrationError, match=r"slimmable\.calibrate"):
        written(tmp_path, net, x, [net.space.uniform(0.7)])


def test_graphs_resemble_each_other():
    first = bytes(Random(0).randbytes(20_000))
    second = first[:10_000] + b"another" + first[10_000:]
    assert inflated(deflated(second, first), first) == second
    assert len(deflated(second, first)) < 400
    with pytest.raises(ArtifactError, match="ends too early"):
        inflated(deflated(second, first)[:-5], first)


def test_damage_anywhere_is_an_error_and_never_another_network(tmp_path):
    net, x, widths = converted("joined")
    path = written(tmp_path, net, x, widths).path
    content, random, other = path.read_bytes(), Random(0), tmp_path / "other.slim"
    refused = 0
    for _ in range(300):
        mutated = bytearray(content)
        # Half of the changes meet the header, which is a small part of the file.
        end = len(content) if random.random() < 0.5 else int.from_bytes(content[:8], "little") + 8
        match random.randrange(4):
            case 0:
                mutated[random.randrange(end)] ^= 1 << random.randrange(8)
            case 1:
                del mutated[random.randrange(end) :]
            case 2:
                start = random.randrange(end)
                mutated[start : start + random.randrange(1, 50)] = random.randbytes(random.randrange(50))
            case _:
                start = random.randrange(end)
                del mutated[start : start + random.randrange(1, 50)]
        other.write_bytes(mutated)
        try:
            found = Artifact(other)
        except ArtifactError:
            refused += 1
        else:
            original = Artifact(path)
            assert found.manifest == original.manifest
            assert all(
                np.array_equal(a, b)
                for at in range(len(widths))
                for a, b in zip(found.arrays("onnx", at).values(), original.arrays("onnx", at).values(), strict=True)
            )
    assert refused > 290
