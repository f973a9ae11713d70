"""Detection as a task of the loop."""

import pytest
import torch

from slimmable import convert
from slimmable.errors import DataError, RecipeError
from slimmable.models.vision_options import DetectorSize
from slimmable.recipes.detection import TWO_STAGE
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.shapes import write_shapes
from slimmable.tasks.detection.task import DetectionTask
from slimmable.train import Task
from slimmable.train.step import train_step

SMALL = DetectorSize(width=0.25, neck=16, head=32, head_layers=1, anchor=8, proposals=40, samples=16)
LOSSES = {
    "detection": set(),
    "instance-segmentation": {"loss_mask"},
    "keypoints": {"loss_keypoint"},
}
FIGURES = {"detection": "ap", "instance-segmentation": "mask_ap", "keypoints": "keypoint_ap"}


def task_of(kind, **options):
    data = SceneSettings(size=64, batch_size=2, train_images=4, test_images=3)
    return DetectionTask(kind, data, **{"backbone": "resnet10", "size": SMALL, "keypoints": 4, **options})


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_summed_and_found_objects_judged(kind):
    torch.manual_seed(0)
    task = task_of(kind)
    assert isinstance(task, Task)
    net = task.model()
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))

    outputs = task.forward(net, batch)

    common = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert set(outputs) == common | LOSSES[kind]
    assert torch.isclose(task.loss(outputs, batch), torch.stack([*outputs.values()]).sum())
    metric = task.metrics()
    with torch.no_grad():
        net.eval()
        for held in task.test_batches():
            metric.update(task.forward(net, held), held)
    assert task.metric == FIGURES[kind]
    assert task.metric in metric.compute()
    assert [tuple(each.shape) for each in task.example_inputs()] == [(2, 3, 64, 64)]


def test_gradients_of_all_switches_are_summed():
    torch.manual_seed(0)
    task = task_of("detection")
    net = convert(task.model(), task.example_inputs(), switches=[1.0, 0.5], exclude=TWO_STAGE).train()
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))
    parameters = dict(net.named_parameters())

    def gradients(widths_list):
        net.zero_grad()
        train_step(net, batch, task=task, widths_list=widths_list, distill=False)
        return {name: None if each.grad is None else each.grad.clone() for name, each in parameters.items()}

    torch.manual_seed(1)
    together = gradients(net.switches)
    torch.manual_seed(1)
    # One after the other they draw the same regions as together.
    apart = [gradients([widths]) for widths in net.switches]

    for name, found in together.items():
        parts = [each[name] for each in apart if each[name] is not None]
        assert (found is None) == (not parts)
        if parts:
            torch.testing.assert_close(found, torch.stack(parts).sum(0), rtol=1e-4, atol=1e-5)


def test_there_is_no_distillation():
    task = task_of("detection")

    with pytest.raises(RecipeError, match=r"every width learns from the labels.*set train.distillation=false"):
        task.distillation_loss({}, {}, None)


def test_keypoints_are_as_many_as_the_data_have(tmp_path):
    write_shapes(tmp_path, images=(3, 2), side=32, arrows=True)
    data = SceneSettings(dataset="folder", root=tmp_path, size=32)

    with pytest.raises(
        DataError, match=r"the data have 4 keypoints \(tip, left_wing, notch, right_wing\), the network has 17"
    ):
        DetectionTask("keypoints", data, backbone="resnet10").model()


def test_what_does_not_go_together_is_named():
    with pytest.raises(RecipeError, match="fcos does not do keypoints; expected keypoint_rcnn"):
        DetectionTask("keypoints", network="fcos")
    with pytest.raises(RecipeError, match="kind is 'panoptic'; expected one of detection"):
        DetectionTask("panoptic")


def test_a_task_on_another_device_shares_its_images():
    task = task_of("detection")

    moved = task.to(torch.device("meta"))

    assert (moved.device.type, task.device.type) == ("meta", "cpu")
    assert moved.pipeline is task.pipeline
