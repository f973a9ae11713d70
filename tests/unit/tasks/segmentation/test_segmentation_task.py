"""Segmentation as a task of the loop: losses and figures."""

import numpy as np
import pytest
import torch

from slimmable import convert
from slimmable.errors import RecipeError
from slimmable.tasks.segmentation.batches import MapBatch
from slimmable.tasks.segmentation.intersection import IntersectionOverUnion
from slimmable.tasks.segmentation.maps import IGNORED
from slimmable.tasks.segmentation.settings import LabelMapSettings
from slimmable.tasks.segmentation.task import SegmentationTask
from slimmable.train import Task
from slimmable.train.step import train_step


def task_of(**options):
    data = LabelMapSettings(size=32, crop=32, batch_size=2, train_images=2, test_images=2)
    return SegmentationTask(data, **{"network": "fcn", "backbone": "resnet10", "width": 0.25, **options})


def batch_of(labels):
    return MapBatch(torch.zeros(len(labels), 3, *labels.shape[1:]), labels)


def random_case(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, 0] = IGNORED
    return logits, labels


def test_loss_is_the_mean_of_the_pixels_that_count():
    task = task_of()
    (out, labels), (aux, _) = random_case(0), random_case(1)

    found = task.loss({"out": out, "aux": aux}, batch_of(labels))

    def mean(logits):
        chances = logits.double().softmax(1)
        places = [
            -chances[b, labels[b, i, j], i, j].log()
            for b in range(2)
            for i in range(5)
            for j in range(6)
            if labels[b, i, j] != IGNORED
        ]
        return torch.stack(places).mean()

    torch.testing.assert_close(found.double(), mean(out) + 0.5 * mean(aux), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(task.loss({"out": out}, batch_of(labels)).double(), mean(out), rtol=1e-5, atol=1e-6)


def test_distillation_is_summed_over_classes_and_averaged_over_pixels():
    (out, labels), (target, _) = random_case(0), random_case(1)
    target.requires_grad_(True)

    found = task_of().distillation_loss({"out": out}, {"out": target}, batch_of(labels))

    expected = -(target.softmax(1) * out.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_counting_pixel_by_pixel(seed):
    cases = [random_case(seed), random_case(seed + 10)]
    metric = IntersectionOverUnion(5)  # of which one neither occurs nor is named
    for logits, labels in cases:
        metric.update({"out": torch.cat([logits, torch.full((2, 1, 5, 6), -9.0)], 1)}, batch_of(labels))

    named = torch.cat([logits.argmax(1).flatten() for logits, _ in cases]).tolist()
    truth = torch.cat([labels.flatten() for _, labels in cases]).tolist()
    pairs = [(n, t) for n, t in zip(named, truth, strict=True) if t != IGNORED]
    shares = []
    for label in range(4):
        both = sum(n == t == label for n, t in pairs)
        shares.append(both / sum(label in pair for pair in pairs))
    assert metric.compute() == {
        "miou": pytest.approx(np.mean(shares)),
        "pixel_accuracy": pytest.approx(np.mean([n == t for n, t in pairs])),
        "loss": pytest.approx(
            np.mean([float(task_of().loss({"out": logits}, batch_of(labels))) for logits, labels in cases]), abs=1e-3
        ),
    }


def test_a_step_and_a_figure():
    torch.manual_seed(0)
    task = task_of()
    assert isinstance(task, Task)
    net = task.model()
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))

    loss = task.loss(task.forward(net, batch), batch)
    loss.backward()

    assert torch.isfinite(loss)
    metric = task.metrics()
    with torch.no_grad():
        for held in task.validation_batches():
            metric.update(task.forward(net.eval(), held), held)
            break
    assert 0 <= metric.compute()[task.metric] <= 1


def test_every_width_learns_with_its_second_head():
    torch.manual_seed(0)
    task = task_of()
    net = convert(task.model(), *task.example_inputs()).train()
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))
    second = dict(net.model.aux_classifier.named_parameters())

    for widths in (net.space.largest, net.space.uniform(0.5), net.space.smallest):
        net.zero_grad(set_to_none=True)
        losses = train_step(net, batch, task=task, widths_list=[net.space.largest, widths], distill=True)

        assert all(torch.isfinite(loss) for loss in losses)
        net.zero_grad(set_to_none=True)
        train_step(net, batch, task=task, widths_list=[widths], distill=False)
        kept = widths["aux_classifier.0"]
        learns = second["0.weight"].grad.flatten(1).abs().sum(1) > 0
        assert learns[:kept].any()
        assert not learns[kept:].any()


def test_lr_aspp_has_no_second_head():
    with pytest.raises(RecipeError, match="LR-ASPP has no second head"):
        task_of(network="lraspp", auxiliary=True)
    assert task_of(network="lraspp").to(torch.device("meta")).device.type == "meta"
