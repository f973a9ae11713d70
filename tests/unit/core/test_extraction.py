"""Extracted sub-networks: plain modules, exact, compilable and exportable."""

import copy
import io
import sys
import warnings
from functools import cache
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.errors import CalibrationError, ExtractionError, WidthError
from tests.unit.core.oracle import assert_same, images, segments, shaken

IMAGES = images(size=8, batch=6)


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation and a forward of its own, as timm's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(x)


class Every(nn.Module):
    """Batch norms that fold and some that do not: behind a sum, twice called, with their own forward, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), NormAct(16)
        self.deep, self.norm3 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16)
        self.side, self.norm4 = nn.ConvTranspose2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.twice, self.norm5 = nn.Conv2d(40, 40, 1), nn.BatchNorm2d(40, affine=False)
        self.hidden, self.norm6 = nn.Linear(40, 32), nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = self.norm3(x + self.norm2(self.conv2(x)) + self.deep(x))
        x = torch.cat([x, F.relu(self.norm4(self.side(x)))], 1)
        x = self.norm5(self.twice(F.relu(self.norm5(self.twice(x)))))
        return self.head(F.relu(self.norm6(self.hidden(x.mean((2, 3))))))


@cache
def _converted(kind: str) -> SlimmableModel:
    options: dict[str, Any] = {
        "calibrated": {},
        "private": {"switches": (1.0, 0.6, 0.25)},
        "naive": {"batch_norm": "naive"},
    }[kind]
    net = slimmable.convert(shaken(Every()).eval(), IMAGES, **options)
    if kind == "calibrated":
        slimmable.calibrate(net, [IMAGES], widths_of(net))
    elif kind == "private":
        net.train()
        for widths in net.switches:
            with net.at(widths):
                net(IMAGES)
    return net.eval()


def converted(kind: str = "calibrated") -> SlimmableModel:
    return copy.deepcopy(_converted(kind))


def widths_of(net: SlimmableModel) -> list[slimmable.Widths]:
    random = [net.space.random(Random(seed)) for seed in range(2)]
    return list(net.switches) or [net.space.largest, *random, net.space.smallest]


def things(value: Any, seen: set[int] | None = None) -> list[Any]:
    """Everything that hangs on a module, by brute force; types and modules of code are not entered."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type | ModuleType | str | int | float | torch.dtype):
        return []
    seen.add(id(value))
    found = [value]
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif not isinstance(value, Tensor):
        parts = list(getattr(value, "__dict__", {}).values())
        parts += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    for part in parts:
        found += things(part, seen)
    return found


@pytest.mark.parametrize("kind", ["calibrated", "private", "naive"])
def test_the_extracted_network_computes_the_same_bit_for_bit(kind):
    net = converted(kind)
    for widths in widths_of(net):
        plain = net.extract(widths)
        with torch.no_grad(), net.at(widths):
            assert_same(plain(IMAGES), net(IMAGES))
            assert_same(plain(IMAGES[:1]), net(IMAGES[:1]))


@pytest.mark.parametrize("kind", ["calibrated", "private", "naive"])
def test_folded_batch_norm_changes_rounding_alone(kind):
    net = converted(kind)
    for widths in widths_of(net):
        folded = net.extract(widths, fold_batch_norm=True)
        with torch.no_grad(), net.at(widths):
            expected = net(IMAGES)
        error = (folded(IMAGES) - expected).abs().max() / expected.abs().max()
        assert error < 1e-5
        kept = [name for name, module in folded.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if kind != "naive":
            assert kept == ["norm2", "norm3", "norm5"]
        assert not folded.training
        assert folded.conv1.bias is not None


@pytest.mark.parametrize("hooked", ["conv1", "norm1"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_batch_norm_stays_where_a_hook_changes_what_it_or_its_layer_returns(hooked, when):
    model = shaken(Every()).eval()
    if when == "before":
        model.get_submodule(hooked).register_forward_hook(lambda _module, _args, output: output * 2)
    net = slimmable.convert(model, IMAGES)
    if when == "after":
        net.model.get_submodule(hooked).register_forward_hook(lambda _module, _args, output: output * 2)

    folded = net.extract(net.space.base, fold_batch_norm=True)

    with torch.no_grad():
        expected = net(IMAGES)
        torch.testing.assert_close(folded(IMAGES), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert isinstance(folded.norm1, nn.BatchNorm2d)
    assert isinstance(folded.norm6, nn.Identity)


@pytest.mark.parametrize("fold", [False, True])
def test_nothing_of_ours_hangs_on_the_extracted_network(fold):
    net = converted()
    for widths in (net.space.smallest, net.space.largest):
        plain = net.extract(widths, fold_batch_norm=fold)
        ours = [thing for thing in things(plain) if type(thing).__module__.startswith("slimmable")]
        assert ours == []
        assert {type(module).__module__.split(".")[0] for module in plain.modules()} <= {"torch", "tests", __name__}
        assert {type(m) for m in plain.modules()} <= {type(m) for m in Every().modules()} | {nn.Identity}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())


def test_weights_are_contiguous_of_the_active_size_and_their_own():
    net = converted()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items() if isinstance(tensor, Tensor)}
    plain = net.extract(net.space.smallest)
    theirs = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values() if isinstance(tensor, Tensor)}
    for name, tensor in plain.state_dict().items():
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
        assert tensor.untyped_storage().data_ptr() not in theirs, name
    assert all(parameter.is_leaf for parameter in plain.parameters())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    for name, tensor in net.state_dict().items():
        if isinstance(tensor, Tensor):
            assert torch.equal(tensor, before[name])


def test_kernels_in_channels_last_stay_so():
    net = converted().to(memory_format=torch.channels_last)
    plain = net.extract(net.space.smallest)
    assert plain.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    x = IMAGES.to(memory_format=torch.channels_last)
    with torch.no_grad(), net.at(net.space.smallest):
        assert_same(plain(x), net(x))


def test_the_given_width_extracts_the_given_network():
    model = shaken(Every()).eval()
    net = slimmable.convert(model, IMAGES)
    plain = net.extract(net.space.base)
    counts = {name: tensor for name, tensor in plain.state_dict().items() if "num_batches" not in name}
    assert_same(counts, {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name})
    assert list(plain.state_dict()) == list(model.state_dict())
    assert repr(plain) == repr(model)


def test_the_extracted_network_trains_alone():
    net = converted()
    plain = net.extract(net.space.smallest).train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9)
    before = float(F.cross_entropy(plain(IMAGES), torch.arange(6) % 5).detach())
    for _ in range(20):
        loss = F.cross_entropy(plain(IMAGES), torch.arange(6) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < before
    with torch.no_grad(), net.at(net.space.smallest):
        assert not torch.equal(net(IMAGES), plain.eval()(IMAGES))


@pytest.mark.parametrize("fold", [False, True])
def test_the_extracted_network_compiles_exports_and_is_pickled(fold):
    net = converted()
    plain = net.extract(net.space.smallest, fold_batch_norm=fold)
    expected = plain(IMAGES).detach()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(plain, (IMAGES,), strict=False)
        assert_same(exported.module()(IMAGES), expected)
        torch.compiler.reset()
        compiled = torch.compile(plain, backend="eager", fullgraph=True)
        assert_same(compiled(IMAGES), expected)
        traced = torch.jit.trace(plain, IMAGES)
        assert_same(traced(IMAGES), expected)
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    sys.modules.setdefault(Every.__module__, sys.modules[__name__])
    assert_same(torch.load(file, weights_only=False)(IMAGES), expected)


def test_a_converted_network_compiles_at_its_active_width():
    net = converted("naive")
    compiled = torch.compile(net.model, backend="eager")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for widths in (net.space.smallest, net.space.largest):
            with net.at(widths):
                assert_same(compiled(IMAGES), net(IMAGES))
    torch.compiler.reset()


def test_the_network_comes_back_as_it_was():
    net = converted()
    net.set(net.space.random(Random(0)))
    widths, mode, modules = net.widths, net.training, [type(module) for module in net.modules()]
    net.extract(net.space.smallest, fold_batch_norm=True)
    assert net.widths == widths
    assert net.training is mode
    assert [type(module) for module in net.modules()] == modules


def test_a_training_network_gives_a_training_sub_network():
    net = converted().train()
    assert net.extract(net.space.smallest).training
    assert not net.extract(net.space.smallest, fold_batch_norm=True).training


def test_segments_of_a_concatenation_stay_with_their_layers():
    net = converted("naive")
    widths = net.space.smallest
    plain = net.extract(widths)
    full = net.state_dict()["model.twice.weight"]
    kept = segments((widths["conv1"], 16), (widths["side"], 24))
    assert torch.equal(plain.twice.weight, full[kept][:, kept])


def test_a_width_without_statistics_cannot_be_extracted():
    net = slimmable.convert(shaken(Every()).eval(), IMAGES)
    with pytest.raises(CalibrationError, match=r"no statistics for Widths.*Run slimmable\.calibrate"):
        net.extract(net.space.uniform(0.5))
    with pytest.raises(WidthError, match="another space"):
        net.extract(slimmable.Widths.of({"x": 1}))


def test_a_network_that_no_longer_copies_is_refused_by_our_own_error():
    net = converted()

    class Stubborn:
        def __deepcopy__(self, _memo):
            raise RuntimeError("on purpose")

    net.model.handle = Stubborn()
    with pytest.raises(ExtractionError, match="cannot be copied: on purpose"):
        net.extract(net.space.smallest)
