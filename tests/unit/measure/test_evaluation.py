"""Figures at many widths in one pass, with the network left as it was."""

import pytest
import torch
from torch import nn

import slimmable
from slimmable.errors import CalibrationError
from tests.unit.core.oracle import images


class Mean:
    """The mean of all outputs, and how many there were."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs, batch):
        self.total += float(outputs.sum())
        self.count += outputs.numel()
        assert len(outputs) == len(batch[0])

    def compute(self):
        return {"mean": self.total / self.count, "count": self.count}


def converted() -> slimmable.SlimmableModel:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Dropout(), nn.Conv2d(16, 2, 1))
    return slimmable.convert(model, images())


def test_figures_are_those_of_each_width_alone_and_data_are_read_once():
    net = converted().train()
    net.model[1].eval()
    batches = [(images(batch=size), None) for size in (4, 2)]
    widths_list = [net.space.largest, net.space.smallest]
    slimmable.calibrate(net, [batch for batch, _ in batches], widths_list)
    modes = [module.training for module in net.modules()]
    found = slimmable.evaluate(
        net, iter(batches), widths_list, forward=lambda net, batch: net(batch[0]), metric_factory=Mean
    )
    assert [module.training for module in net.modules()] == modes
    for widths, figures in zip(widths_list, found, strict=True):
        plain = net.extract(widths).eval()
        outputs = torch.cat([plain(batch) for batch, _ in batches])
        assert figures["mean"] == pytest.approx(float(outputs.mean().detach()), rel=1e-4)
        assert figures["count"] == outputs.numel()


def test_a_width_without_statistics_is_an_error_and_the_mode_comes_back():
    net = converted().train()
    net.set(net.space.smallest)
    with pytest.raises(CalibrationError, match="no statistics"):
        slimmable.evaluate(
            net, [(images(), None)], [net.space.base, net.space.smallest],
            forward=lambda net, batch: net(batch[0]), metric_factory=Mean,
        )  # fmt: skip
    assert net.training
    assert net.widths == net.space.smallest
