"""What training leaves in batch norms is known where it ran, and asked for anew where it did not."""

import pytest

from slimmable import Widths, calibrate
from slimmable.errors import CalibrationError
from slimmable.measure.evaluation import evaluate
from slimmable.train import DrawnSwitches, Sandwich, SwitchList, TrainSettings, WidthSampler, fit
from tests.unit.train.toy import ToyTask, toy_net

SWITCHES = (0.5, 0.625, 0.75, 0.875, 1.0)
SAMPLERS = {
    "US-Net": ({}, lambda net: Sandwich(net.space, n=3)),
    "US-Net, wider than given": ({"max_ratio": 1.5}, lambda net: Sandwich(net.space, n=2)),
    "S-Net": ({"switches": SWITCHES}, lambda net: SwitchList(net.switches)),
    "switches drawn": ({"switches": SWITCHES}, lambda net: DrawnSwitches(net.switches)),
}


def validated(sampler: WidthSampler, entry: dict) -> bool:
    return [Widths.from_json(each["widths"]) for each in entry["validation"]] == list(sampler.fixed)


@pytest.mark.parametrize("average", [None, 0.9], ids=["", "averaged"])
@pytest.mark.parametrize(("options", "sampler"), SAMPLERS.values(), ids=SAMPLERS)
def test_widths_of_every_step_are_validated_after_every_epoch(options, sampler, average):
    net = toy_net(**options)
    chosen = sampler(net)
    settings = TrainSettings(epochs=3, ema_decay=average)
    record = fit(net, ToyTask(), sampler=chosen, settings=settings, progress=False)
    assert all(validated(chosen, entry) for entry in record.history)
    assert set(net.calibrated) == {*chosen.fixed, *net.switches}


def test_the_given_width_between_is_calibrated_after_training():
    net, task = toy_net(max_ratio=1.5), ToyTask(steps=6)
    given = net.space.base
    fit(net, task, sampler=Sandwich(net.space, n=2), settings=TrainSettings(epochs=2), progress=False)

    def figures() -> list[dict[str, float]]:
        return evaluate(net, task.test_batches(), [given], forward=task.forward, metric_factory=task.metrics)

    with pytest.raises(CalibrationError, match="weights have changed"):
        figures()
    calibrate(net, [images for images, _ in task.train_batches(net, epoch=0, seed=0)], [given])
    assert figures()
