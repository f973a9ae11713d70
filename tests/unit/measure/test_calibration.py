"""Measured statistics are those of all activations at once, and the network comes back as it was."""

import copy
from random import Random
from typing import Any

import pytest
import torch
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
