"""Measured statistics are those of all activations at once, and the network comes back as it was."""

import copy
import functools
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.errors import CalibrationError, WidthError
from tests.unit.core.oracle import flat, images, shaken


class Twice(nn.Module):
    """Batch norm of two and four dimensions, one called twice, a depthwise convolution and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.deep, self.norm2 = nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16, affine=False)
        self.drop, self.hidden = nn.Dropout(0.5), nn.Linear(16, 24)
        self.norm3, self.head = nn.BatchNorm1d(24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(self.deep(self.norm1(self.stem(x)).relu())).relu()
        return self.head(self.norm3(self.hidden(self.drop(x.mean((2, 3))))).relu())


def converted(dtype: torch.dtype = torch.float32, **options: Any) -> SlimmableModel:
    return slimmable.convert(shaken(Twice()).eval().to(dtype), images().to(dtype), **options)


def batches_of(*sizes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [images(batch=size, seed=place).to(dtype) for place, size in enumerate(sizes)]


def reference(net: SlimmableModel, widths: Widths, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and biased variance of every batch norm's inputs, from all activations of the extracted network at once.

    In the extracted network batch norm normalises with the moments of the batch; it keeps no statistics of its own.
    """
    slimmable.calibrate(net, batches[:1], [widths])
    plain = net.extract(widths)
    seen: dict[str, list[Tensor]] = {}
    for name, module in plain.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.register_forward_hook(
                lambda _module, inputs, _output, name=name: seen.setdefault(name, []).append(inputs[0].double())
            )
    with torch.no_grad():
        for batch in batches:
            plain(batch)
    values = [torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1) for parts in seen.values()]
    return [(value.mean(1), value.var(1, unbiased=False)) for value in values]


def snapshot(net: SlimmableModel) -> dict[str, Any]:
    """All that calibration must give back."""
    return {
        "weights": [tensor.clone() for tensor in net.model.state_dict().values()],
        "modes": [module.training for module in net.modules()],
        "momenta": [getattr(module, "momentum", None) for module in net.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()],
        "widths": net.widths,
        "tables": {
            widths: [tensor.clone() for tensor in net.table(widths).state_dict().values()] for widths in net.stored
        },
        "known": net.calibrated,
    }


def assert_as_before(net: SlimmableModel, before: dict[str, Any]) -> None:
    now = snapshot(net)
    for key in ("modes", "momenta", "hooks", "widths", "known"):
        assert now[key] == before[key], key
    assert now["tables"].keys() == before["tables"].keys()
    for ours, theirs in zip(
        [*flat(now["weights"]), *flat(now["tables"])], [*flat(before["weights"]), *flat(before["tables"])], strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(8,), (4, 4), (2, 9, 5)], ids=str)
def test_statistics_equal_those_of_all_activations_at_once(sizes, dtype):
    net, batches = converted(dtype), batches_of(*sizes, dtype=dtype)
    for widths in (net.space.random(Random(1)), net.space.smallest, net.space.largest):
        expected = reference(copy.deepcopy(net), widths, batches)

        slimmable.calibrate(net, iter(batches), [widths])

        table = net.table(widths)
        assert table is not None
        assert len(expected) == len(net.norm_layers) == 3
        for i, (mean, var) in enumerate(expected):
            torch.testing.assert_close(table.value(i, "mean").double(), mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(table.value(i, "var").double(), var, rtol=1e-5, atol=1e-6)
            assert table.value(i, "mean").dtype == dtype


def test_many_widths_at_once_equal_one_at_a_time():
    one, other, batches = converted(), converted(), batches_of(4, 6)
    widths_list = [one.space.random(Random(seed)) for seed in range(4)] + [one.space.smallest]
    slimmable.calibrate(one, batches, [*widths_list, widths_list[0]])
    for widths in widths_list:
        slimmable.calibrate(other, batches, [widths])
        for ours, theirs in zip(
            one.table(widths).state_dict().values(), other.table(widths).state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_a_moving_average_is_that_of_batch_norm_in_training():
    net, batches = converted(), batches_of(4, 6, 5)
    widths = net.space.smallest
    slimmable.calibrate(net, batches[:1], [widths])
    plain = net.extract(widths)
    norms = [module for module in plain.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for place, batch in enumerate(batches):
        for norm in norms:
            norm.train()
            norm.momentum = 1.0 if place == 0 else 0.3
        with torch.no_grad():
            plain(batch)

    slimmable.calibrate(net, batches, [widths], method="moving", momentum=0.3)

    for i, norm in enumerate(norms):
        torch.testing.assert_close(net.table(widths).value(i, "mean"), norm.running_mean)
        torch.testing.assert_close(net.table(widths).value(i, "var"), norm.running_var)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_comes_back_as_it_was(training):
    net = converted().train(training)
    net.model.norm1.eval()
    net.set(net.space.smallest)
    before = snapshot(net)
    half = net.space.uniform(0.5)
    slimmable.calibrate(net, batches_of(4, 3), [half])
    assert half in net.calibrated
    net.drop_tables(keep=before["tables"])
    assert_as_before(net, before)


def test_tuples_are_positional_arguments():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(x + y)))

    net = slimmable.convert(shaken(Sum()).eval(), (images(), images()))
    pairs = [(images(seed=1), images(seed=2))]
    slimmable.calibrate(net, pairs, [net.space.smallest])
    with net.at(net.space.smallest):
        inputs = net.model.conv(pairs[0][0] + pairs[0][1])
    torch.testing.assert_close(net.table(net.space.smallest).value(0, "mean"), inputs.mean((0, 2, 3)).detach())


def test_private_statistics_can_be_measured_anew():
    net = converted(switches=[1.0, 0.5])
    slimmable.calibrate(net, batches_of(4, 6), list(net.switches))
    assert net.calibrated == net.switches
    with pytest.raises(WidthError, match="not a switch"):
        slimmable.calibrate(net, batches_of(4), [net.space.smallest])


NAN = torch.full((4, 3, 6, 6), torch.nan)
REFUSED = {
    "no batches": ([], "got no batches; it needs one or two thousand training samples"),
    "not finite": ([images(), NAN], r"layer 'norm1' met NaN or an infinity at Widths\("),
    "not finite at once": ([NAN], r"layer 'norm1' met NaN or an infinity at Widths\("),
    "infinite": ([NAN.nan_to_num(torch.inf), images()], r"layer 'norm1' met NaN or an infinity at Widths\("),
    "empty": ([images(batch=0)], r"batch 0 is empty: an input has shape \(0, 3, 6, 6\)"),
    "empty afterwards": ([images(), images(batch=0)], "batch 1 is empty: .* leave empty ones out"),
    "one value": ([images(batch=1)], "one value per channel; use larger batches"),
    "labels too": ([(images(), torch.zeros(4))], "a batch holds 2 values, which the network's forward does not take"),
}


@pytest.mark.parametrize(("batches", "message"), REFUSED.values(), ids=REFUSED)
def test_batches_that_say_nothing_are_refused_and_leave_no_trace(batches, message):
    net = converted().train()
    before = snapshot(net)
    with pytest.raises(CalibrationError, match=message):
        slimmable.calibrate(net, batches, [net.space.uniform(0.5), net.space.smallest, net.space.base])
    assert_as_before(net, before)


def test_an_error_of_the_data_passes_and_leaves_no_trace():
    net = converted()
    before = snapshot(net)

    def broken():
        yield images()
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        slimmable.calibrate(net, broken(), [net.space.uniform(0.5), net.space.smallest])
    assert_as_before(net, before)


@pytest.mark.parametrize("error", [CalibrationError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("switches", [None, (1.0, 0.5)], ids=["shared", "private"])
def test_what_was_stale_is_stale_after_an_error(switches, error):
    net = converted(switches=switches)
    half, other = net.space.uniform(0.5), net.switches[:1] or (net.space.smallest,)
    widths_list = [half, net.space.largest]
    slimmable.calibrate(net, batches_of(6, 4), widths_list)
    net.train()
    for _ in range(20):
        with net.at(other[0]):
            net(images()).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.01)
    stale = [widths for widths in widths_list if widths not in other]
    before = snapshot(net)
    assert not {*stale} & {*net.calibrated}

    def broken():
        yield images()
        if error is CalibrationError:
            yield NAN
        raise error

    with pytest.raises(error):
        slimmable.calibrate(net, broken(), widths_list)
    assert_as_before(net, before)
    for widths in stale:
        with pytest.raises(CalibrationError, match="weights have changed"), net.at(widths):
            net.eval()(images())
    slimmable.calibrate(net, batches_of(6, 4), widths_list)
    assert {*widths_list} <= {*net.calibrated}


def test_statistics_measured_in_inference_mode_can_be_followed_and_measured_again():
    net, batches = converted(), batches_of(6, 4)
    widths_list = [net.space.uniform(0.5), net.space.smallest]
    with torch.inference_mode():
        slimmable.calibrate(net, batches_of(6, 4), widths_list)
    expected = {widths: {k: v.clone() for k, v in net.table(widths).state_dict().items()} for widths in widths_list}
    slimmable.calibrate(net, batches, widths_list)
    for widths in widths_list:
        for name, value in net.table(widths).state_dict().items():
            assert torch.equal(value, expected[widths][name])
        with net.at(widths):
            net.train()(images()).sum().backward()


class Block(nn.Module):
    """A convolution and the batch norm behind it in one module, its statistics among the module's own buffers."""

    def __init__(
        self, channels: int, *, momentum: float | None, call: Callable[..., Tensor] = torch.batch_norm
    ) -> None:
        super().__init__()
        self.conv, self.momentum, self.call = nn.Conv2d(3, channels, 3), momentum, call or torch.batch_norm
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("means", torch.zeros(channels))
        self.register_buffer("variances", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.momentum is None:
            return F.batch_norm(x, self.means, self.variances, self.weight, self.bias)
        return self.call(
            x, self.weight, self.bias, self.means, self.variances, self.training, self.momentum, 1e-5, False
        )


class Outer(nn.Module):
    """Calls its batch norm by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.conv(x))


CALLS = {
    "by keyword": Outer,
    "among a block's buffers": lambda: Block(16, momentum=0.1),
    "by the operator": lambda: Block(16, momentum=0.1, call=torch.ops.aten.batch_norm),
    "never training": lambda: Block(16, momentum=None),
}


@pytest.mark.parametrize("build", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("loaded", [False, True], ids=["", "loaded"])
def test_a_batch_norm_is_measured_however_it_is_called(build, loaded, tmp_path):
    net = slimmable.convert(nn.Sequential(build(), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval(), images())
    with torch.no_grad():
        net.model[0].conv.bias.add_(3)
    slimmable.save(net, tmp_path / "net.st")
    other, half, batches = slimmable.load(tmp_path / "net.st") if loaded else net, net.space.uniform(0.5), batches_of(6)
    slimmable.calibrate(other, batches, [half])
    with torch.no_grad(), net.at(half):
        values = net.model[0].conv(batches[0]).transpose(0, 1).flatten(1)
    table = other.table(half)
    torch.testing.assert_close(table.value(0, "mean"), values.mean(1))
    torch.testing.assert_close(table.value(0, "var"), values.var(1, unbiased=False))


def test_a_loaded_network_is_measured_as_that_which_was_saved(tmp_path):
    net, batches = converted(), batches_of(6, 4)
    slimmable.save(net, tmp_path / "net.st")
    loaded = slimmable.load(tmp_path / "net.st")
    half = net.space.uniform(0.5)
    for each in (net, loaded):
        slimmable.calibrate(each, batches, [half])
    for name, value in net.table(half).state_dict().items():
        torch.testing.assert_close(loaded.table(half).state_dict()[name], value)


def test_instance_norm_that_keeps_statistics_is_measured_by_samples():
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16, track_running_stats=True), nn.Conv2d(16, 2, 1))
    net = slimmable.convert(plain.eval(), images())
    half, batches = net.space.uniform(0.5), batches_of(6, 2)
    slimmable.calibrate(net, batches, [half])
    with torch.no_grad(), net.at(half):
        values = net.model[0](torch.cat(batches)).flatten(2)
    torch.testing.assert_close(net.table(half).value(0, "mean"), values.mean((0, 2)))
    torch.testing.assert_close(net.table(half).value(0, "var"), values.var(2).mean(0))


def test_statistics_that_are_not_the_buffers_themselves_are_named():
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.running_mean.clone(), self.running_var.clone(), self.weight, self.bias)

    net = converted()
    net.model.norm1.forward = functools.partial(Doubled.forward, net.model.norm1)
    with pytest.raises(CalibrationError, match="layer 'norm1' does not give its buffers 'running_mean' and"):
        slimmable.calibrate(net, batches_of(4), [net.space.smallest])


def test_naive_sharing_and_foreign_widths_are_refused():
    net = converted(batch_norm="naive")
    with pytest.raises(CalibrationError, match="batch_norm='naive'"):
        slimmable.calibrate(net, batches_of(4), [net.space.smallest])
    with pytest.raises(WidthError, match="another space"):
        slimmable.calibrate(converted(), batches_of(4), [Widths.of({"x": 3})])


def test_a_layer_that_evaluation_does_not_run_needs_no_statistics():
    """An auxiliary head runs in training alone."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)
            self.aux_norm, self.aux = nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.norm(self.conv(x)).relu()
            return (self.head(x), self.aux(self.aux_norm(x))) if self.training else self.head(x)

    net = slimmable.convert(Auxiliary().eval(), images())
    assert net.space.names == ("conv",)
    slimmable.calibrate(net, batches_of(4), [net.space.smallest])
    with torch.no_grad(), net.at(net.space.smallest):
        assert net(images()).isfinite().all()
        assert len(net.train()(images())) == 2
