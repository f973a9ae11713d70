"""What runs is compared with what was foreseen, by steps; only where steps do not tell, by a trace."""

from random import Random

import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable.core import narrow, prove
from slimmable.core.foreseen import Foreseen
from slimmable.core.steps import Step, Watch, agree, reference
from slimmable.core.trace import trace
from slimmable.core.twins import hollow, hollow_inputs
from tests.unit.core.oracle import images

IMAGES = (images(),)


class Attention(nn.Module):
    """Heads of the sizes that the module keeps."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.stem, self.qkv = nn.Conv2d(3, 24, 1), nn.Linear(24, 3 * width)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).reshape(*x.shape[:2], self.width))


class Sliced(nn.Module):
    """Two parts of an axis, cut where the module says."""

    def __init__(self, begin: int = 16) -> None:
        super().__init__()
        self.begin = begin
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.first(x), self.second(x)], 1)[:, self.begin :])


NETWORKS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(24, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    ),
    "attention": Attention,
    "slices": Sliced,
}  # fmt: skip


def watched(plain: nn.Module, *, empty: bool = False) -> list[Step]:
    """The steps of an extracted network."""
    plain, inputs = (hollow(plain), hollow_inputs(IMAGES)) if empty else (plain, IMAGES)
    with torch.no_grad(), Watch() as watch:
        plain(*inputs)
    return watch.steps


@pytest.mark.parametrize("empty", [False, True], ids=["data", "hollow"])
@pytest.mark.parametrize("name", NETWORKS)
def test_narrow_networks_take_the_steps_of_the_graph_at_their_shapes_and_at_no_others(name, empty):
    model = NETWORKS[name]().eval()
    net = slimmable.convert(model, IMAGES, divisor=4, batch_norm="naive")
    expected = reference(net.analysis.trace, model, hollow=empty)
    assert expected is not None
    drawn = [net.space.random(Random(seed)) for seed in range(4)]

    for widths in drawn:
        steps = watched(net.extract(widths), empty=empty)
        for other in drawn:
            foreseen = Foreseen(net.analysis, net.grouping, other)
            assert agree(expected, foreseen, steps) == (other == widths)
        assert not agree(expected, Foreseen(net.analysis, net.grouping, widths), steps[:-1])


def test_a_slice_that_begins_elsewhere_does_not_agree():
    model = Sliced().eval()
    net = slimmable.convert(model, IMAGES)
    expected = reference(net.analysis.trace, model, hollow=False)
    assert expected is not None
    foreseen, steps = Foreseen(net.analysis, net.grouping, net.space.base), watched(net.extract(net.space.base))
    elsewhere = [step._replace(cut=(8, step.cut[1])) if step.cut and step.cut[0] else step for step in steps]

    assert agree(expected, foreseen, steps)
    assert [step.shapes for step in elsewhere] == [step.shapes for step in steps]
    assert not agree(expected, foreseen, elsewhere)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_conversion_traces_a_network_once(name, monkeypatch):
    def fail(*_args: object) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr(prove, "trace", fail)
    assert len(slimmable.convert(NETWORKS[name](), IMAGES).space)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trace_comes_to_the_same_where_steps_do_not_tell(name, monkeypatch):
    model = NETWORKS[name]()
    net = slimmable.convert(model, IMAGES)
    traced = []
    monkeypatch.setattr(narrow, "reference", lambda *_args, **_options: None)
    monkeypatch.setattr(prove, "trace", lambda *args: traced.append(args) or trace(*args))

    assert slimmable.convert(model, IMAGES).report == net.report
    assert traced


@pytest.mark.parametrize("heavy", [0, 10**12], ids=["hollow", "data"])
def test_a_conversion_comes_to_the_same_with_data_and_without(heavy, monkeypatch):
    model = nn.Sequential(Attention(), nn.Linear(5, 24), nn.Linear(24, 2))
    report = slimmable.convert(model, IMAGES).report
    monkeypatch.setattr(narrow, "_HEAVY", heavy)

    assert slimmable.convert(model, IMAGES).report == report


def test_random_numbers_that_the_steps_draw_are_nobody_elses():
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    graph = trace(Noisy(), IMAGES)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert reference(graph, Noisy(), hollow=False)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("channels", [[16] * 9, [16, 24, 64] * 4, [512]], ids=["few choices", "several", "one"])
def test_any_two_widths_differ_in_one_of_the_networks_that_are_run(channels):
    layers = [nn.Conv2d(a, b, 1) for a, b in zip([3, *channels], [*channels, 2], strict=True)]
    space = slimmable.convert(nn.Sequential(*layers), IMAGES).space
    drawn = narrow._drawn(space)
    ran = [drawn, *narrow._telling_apart(space, drawn)]

    ratios = {tuple(each[group.name] / group.base for each in ran) for group in space.groups}
    assert len(ratios) == len(space) == len(channels)
