"""Segmentation networks are torchvision's own."""

import pytest
import torch
from torchvision.models import segmentation

from slimmable import activation_bytes, convert, macs
from slimmable.errors import RecipeError
from slimmable.models.segmentation import build_segmenter

TWO_HEADS = {"deeplabv3": segmentation.DeepLabV3, "fcn": segmentation.FCN}


def seeded(net, images):
    """Outputs with the same dropout every time."""
    torch.manual_seed(0)
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize(
    ("name", "make"), [("deeplabv3", segmentation.deeplabv3_resnet50), ("fcn", segmentation.fcn_resnet50)]
)
def test_tensors_have_the_names_and_sizes_of_torchvisions_own(name, make):
    with torch.device("meta"):
        theirs = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
        ours = build_segmenter(name, classes=20).state_dict()

    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("name", TWO_HEADS)
def test_outputs_are_torchvisions_own_but_for_the_second_head_in_evaluation(name):
    torch.manual_seed(0)
    ours = build_segmenter(name, classes=2, backbone="resnet10", width=0.25)
    theirs = TWO_HEADS[name](ours.backbone, ours.classifier, ours.aux_classifier)
    images = torch.randn(2, 3, 64, 96)

    found, expected = seeded(ours.train(), images), seeded(theirs.train(), images)

    assert list(found) == list(expected) == ["out", "aux"]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    found, expected = seeded(ours.eval(), images), seeded(theirs.eval(), images)
    assert list(found) == ["out"]
    assert torch.equal(found["out"], expected["out"])


@pytest.mark.parametrize("name", TWO_HEADS)
def test_a_second_head_costs_nothing_and_is_as_wide_as_what_it_reads(name):
    def converted(auxiliary):
        torch.manual_seed(0)
        plain = build_segmenter(name, classes=2, backbone="resnet10", width=0.25, auxiliary=auxiliary)
        return convert(plain, torch.randn(2, 3, 64, 64))

    net, single = converted(True), converted(False)

    for ratio in (0.25, 0.5, 1.0):
        for cost in (macs, activation_bytes):
            assert cost(net, net.space.uniform(ratio)) == cost(single, single.space.uniform(ratio))
    shapes = {}
    for widths in (net.space.smallest, net.space.largest):
        with net.at(widths):
            shapes[widths] = [tuple(net.model.aux_classifier[i].weight.shape[:2]) for i in (0, 4)]
    assert shapes == {net.space.smallest: [(8, 16), (3, 8)], net.space.largest: [(16, 64), (3, 16)]}
    assert [each.layer for each in net.report.pinned] == ["classifier.4", "aux_classifier.4"]


@pytest.mark.parametrize(
    ("name", "backbone"), [("lraspp", "resnet10"), ("fcn", "resnet10"), ("deeplabv3", "mobilenet_v3_small")]
)
def test_an_extracted_network_names_what_the_elastic_one_names(name, backbone):
    torch.manual_seed(0)
    plain = build_segmenter(name, classes=2, backbone=backbone, width=0.25)
    net = convert(plain, torch.randn(2, 3, 64, 64), switches=[1.0, 0.5]).train()
    half, images = net.space.uniform(0.5), torch.randn(2, 3, 64, 96)
    with net.at(half), torch.no_grad():
        learning = seeded(net, images)
        found = net.eval()(images)

    plain = net.extract(half)

    expected = plain(images)
    assert list(found) == list(expected) == ["out"]
    assert torch.equal(found["out"], expected["out"])
    assert found["out"].shape == (2, 3, 64, 96)
    expected = seeded(plain.train(), images)
    assert list(learning) == list(expected) == ["out", "aux"][: 1 + (name != "lraspp")]
    for key in expected:
        torch.testing.assert_close(learning[key], expected[key])


def test_what_cannot_be_built_is_named():
    with pytest.raises(RecipeError, match="there is no segmentation network 'unet'; expected one of deeplabv3"):
        build_segmenter("unet", classes=1)
    with pytest.raises(RecipeError, match="of 0 classes"):
        build_segmenter("fcn", classes=0)
