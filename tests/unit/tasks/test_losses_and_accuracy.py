"""Losses and figures of merit against slow oracles."""

import math

import pytest
import torch
import torch.nn.functional as F

from slimmable.errors import DataError
from slimmable.tasks.accuracy import ClassificationMetric
from slimmable.tasks.images.memory import ImageBatch
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.losses import soft_cross_entropy


@pytest.fixture
def logits():
    """Outputs and targets for 7 images and 9 classes."""
    return [3 * torch.randn(7, 9, generator=seeded_generator(part)) for part in (0, 1)]


def batch(labels):
    return ImageBatch(torch.empty(len(labels), 0), labels)


def slow_soft_cross_entropy(outputs, target):
    total = 0.0
    for z, t in zip(outputs.double().tolist(), target.double().tolist(), strict=True):
        normaliser, target_normaliser = (sum(math.exp(value) for value in row) for row in (z, t))
        for value, target_value in zip(z, t, strict=True):
            total -= math.exp(target_value) / target_normaliser * (value - math.log(normaliser))
    return total / len(outputs)


def test_soft_cross_entropy_sums_over_classes_and_averages_over_the_batch(logits):
    found = soft_cross_entropy(*logits).item()
    expected = slow_soft_cross_entropy(*logits)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(expected / 9, rel=0.5), "a mean over classes makes the signal vanish"


def test_soft_cross_entropy_pulls_towards_the_target_and_not_the_target_itself(logits):
    outputs, target = (values.clone().requires_grad_() for values in logits)
    soft_cross_entropy(outputs, target).backward()
    assert target.grad is None
    torch.testing.assert_close(outputs.grad, (outputs.softmax(1) - target.softmax(1)).detach() / 7)


def test_soft_cross_entropy_is_least_at_the_target_where_it_equals_its_entropy(logits):
    _, target = logits
    probability = target.double().softmax(1)
    entropy = -(probability * probability.log()).sum(1).mean().item()
    assert soft_cross_entropy(target, target).item() == pytest.approx(entropy, rel=1e-5)
    assert soft_cross_entropy(logits[0], target).item() > entropy


@pytest.mark.parametrize("sizes", [(30,), (15, 15), (1, 9, 20)], ids=str)
@pytest.mark.parametrize("classes", [3, 5, 12])
def test_figures_are_those_of_all_images_at_once(sizes, classes):
    generator = seeded_generator(classes)
    outputs = torch.randn(30, classes, generator=generator)
    labels = torch.randint(0, classes, (30,), generator=generator)
    metric = ClassificationMetric()
    for part, part_labels in zip(outputs.split(sizes), labels.split(sizes), strict=True):
        metric.update(part, batch(part_labels))

    found = metric.compute()

    ranks = [sorted(range(classes), key=lambda k: -row[k]).index(y) for row, y in zip(outputs, labels, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(rank == 0 for rank in ranks) / 30)
    assert found["loss"] == pytest.approx(F.cross_entropy(outputs.double(), labels).item(), rel=1e-6)
    assert ("accuracy_top5" in found) == (classes > 5)
    if classes > 5:
        assert found["accuracy_top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / 30)


def test_metric_keeps_no_graph():
    outputs = torch.zeros(2, 3, requires_grad=True)
    metric = ClassificationMetric()
    metric.update(outputs, batch(torch.tensor([0, 1])))
    assert isinstance(metric.compute()["loss"], float)


def test_accuracy_over_no_images_is_an_error():
    with pytest.raises(DataError, match="no images at all"):
        ClassificationMetric().compute()
