"""Detectors are torchvision's own, and a sub-network finds what the elastic network finds."""

import pytest
import torch
from torchvision.models import detection

from slimmable import convert
from slimmable.errors import RecipeError
from slimmable.models.detection import DetectionNet, build_detector
from slimmable.models.pyramids import BACKBONES, stages
from slimmable.models.vision_options import DetectorSize
from slimmable.recipes.detection import DENSE, TWO_STAGE

SMALL = DetectorSize(width=0.25, neck=32, head=32, head_layers=1, anchor=8, proposals=40, samples=16)
THEIRS = {
    "faster_rcnn": detection.fasterrcnn_resnet50_fpn,
    "mask_rcnn": detection.maskrcnn_resnet50_fpn,
    "keypoint_rcnn": detection.keypointrcnn_resnet50_fpn,
    "retinanet": detection.retinanet_resnet50_fpn,
    "fcos": detection.fcos_resnet50_fpn,
}


def small(name, **options):
    torch.manual_seed(0)
    return build_detector(
        name, classes=3, backbone="resnet10", size=SMALL, image_size=(64, 128), keypoints=4, **options
    )


def pictures(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def target(height, width):
    box = torch.tensor([[4.0, 6.0, 40.0, 44.0], [10.0, 12.0, 30.0, 60.0]])
    points = torch.rand(2, 4, 2) * 20 + 12
    return {
        "boxes": box,
        "labels": torch.tensor([1, 3]),
        "masks": torch.ones(2, height, width, dtype=torch.uint8),
        "keypoints": torch.cat([points, torch.ones(2, 4, 1)], 2),
    }


@pytest.mark.parametrize("name", THEIRS)
def test_tensors_have_the_names_and_sizes_of_torchvisions_own(name):
    with torch.device("meta"):
        theirs = THEIRS[name](weights=None, weights_backbone=None).state_dict()
        ours = build_detector(name, classes=1 if name == "keypoint_rcnn" else 90).detector.state_dict()

    # torchvision's RetinaNet may have another anchor, and with it other sizes, but never other names.
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("heads", [False, True], ids=["backbone", "everything"])
@pytest.mark.parametrize("name", THEIRS)
def test_an_extracted_detector_finds_what_the_elastic_one_finds(name, heads):
    exclude = () if heads else DENSE if name in ("retinanet", "fcos") else TWO_STAGE
    net = convert(small(name), torch.randn(2, 3, 64, 64), switches=[1.0, 0.5], exclude=exclude).train()
    inside = {module for group in net.report.groups for module in group.producers}
    assert any(not module.startswith("detector.backbone.body.") for module in inside) == heads
    half = net.space.uniform(0.5)
    images = pictures((64, 64), (70, 90))
    with net.at(half):
        losses = net(images, [target(64, 64), target(70, 90)])
        net.eval()
        with torch.no_grad():
            found = net(images)

    plain = net.extract(half)

    with torch.no_grad():
        expected = plain.detector(images)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not any(type(module).__module__.startswith("slimmable.core") for module in plain.modules())


def test_a_narrow_backbone_feeds_a_neck_of_full_width():
    net = convert(small("faster_rcnn"), torch.randn(2, 3, 64, 64), exclude=TWO_STAGE, batch_norm="naive").eval()

    plain = net.extract(net.space.uniform(0.25))

    laterals = [block[0] for block in plain.detector.backbone.fpn.inner_blocks]
    assert [layer.in_channels for layer in laterals] == [8, 8, 16, 32]  # of 16, 32, 64, 128; multiples of 8
    assert all(layer.out_channels == 32 for layer in laterals)
    assert plain.detector.rpn.head.cls_logits.in_channels == 32
    assert plain.detector.roi_heads.box_head.fc6.in_features == 32 * 49


def test_frozen_norms_keep_all_that_is_theirs():
    net = convert(small("fcos", norm="frozen"), torch.randn(2, 3, 64, 64), switches=[1.0, 0.5], exclude=DENSE)
    half = net.space.uniform(0.5)
    for name, buffer in net.table(half).named_buffers():
        buffer.copy_(torch.zeros_like(buffer) if name.startswith("mean") else torch.ones_like(buffer))
    before = {name: value.clone() for name, value in net.tables.state_dict().items()}
    net.train()

    with net.at(half):
        sum(net(pictures((64, 64), (64, 64)), [target(64, 64)] * 2).values()).backward()

    assert not any(layer.module.training for layer in net.norm_layers)
    assert all(not each.requires_grad and each.grad is None for each in net.tables.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.tables.state_dict().items())
    lateral = net.model.detector.backbone.fpn.inner_blocks[0][0]
    assert dict(lateral.named_parameters())["weight"].grad.abs().sum() > 0


def test_norms_that_are_not_frozen_follow_the_batch():
    net = convert(small("fcos"), torch.randn(2, 3, 64, 64), switches=[1.0, 0.5], exclude=DENSE).train()
    table = net.table(net.space.uniform(0.5))
    before = {name: value.clone() for name, value in table.named_buffers()}

    with net.at(net.space.uniform(0.5)):
        sum(net(pictures((64, 64), (64, 64)), [target(64, 64)] * 2).values()).backward()

    assert all(not torch.equal(value, before[name]) for name, value in table.named_buffers())
    assert all(each.grad is not None for each in table.parameters())


def test_channels_last_changes_nothing_that_is_found():
    net = small("keypoint_rcnn").train()
    images, targets = pictures((64, 64)), [target(64, 64)]
    torch.manual_seed(0)
    expected = net(images, targets)
    torch.manual_seed(0)

    found = net.to(memory_format=torch.channels_last)(images, targets)

    assert all(torch.allclose(found[name], expected[name], rtol=1e-3) for name in expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_return_four_maps_of_falling_size(name):
    with torch.device("meta"):
        maps = stages(name, width=0.5)(torch.zeros(1, 3, 64, 64))

    assert [(key, value.shape[2]) for key, value in maps.items()] == [("0", 16), ("1", 8), ("2", 4), ("3", 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_detector("yolo", classes=1), "there is no detector 'yolo'; expected one of faster_rcnn"),
        (lambda: build_detector("fcos", classes=0), "of 0 classes"),
        (lambda: build_detector("fcos", classes=1, size=DetectorSize(neck=40)), "expected a multiple of 32"),
        (
            lambda: build_detector("fcos", classes=1, backbone="vgg"),
            "there is no backbone 'vgg'; expected one of resnet10",
        ),
        (lambda: stages("resnet10", pretrained=True), "no published weights of resnet10"),
        (lambda: stages("mobilenet_v2", dilated=True), "cannot be dilated"),
        (lambda: DetectorSize(width=0), "DetectorSize.width is 0"),
        (lambda: DetectorSize(samples=0), "DetectorSize.samples is 0"),
        (lambda: DetectorSize(head_layers=0), "DetectorSize.head_layers is 0"),
    ],
)
def test_what_cannot_be_built_is_named(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_the_module_is_the_detector_for_lists_and_its_layers_for_a_tensor():
    net = small("mask_rcnn").eval()

    assert isinstance(net, DetectionNet)
    shapes = [tuple(each.shape) for each in net(torch.zeros(2, 3, 64, 64))]
    assert shapes[-3:] == [(2, 4), (2, 16), (2, 4, 28, 28)]
    assert set(net(pictures((64, 64)))[0]) == {"boxes", "labels", "scores", "masks"}
