"""Segmentation networks are torchvision's own."""

import pytest
import torch
from torchvision.models import segmentation

from slimmable import convert
from slimmable.errors import RecipeError
from slimmable.models.segmentation import build_segmenter


@pytest.mark.parametrize(
    ("name", "make"), [("deeplabv3", segmentation.deeplabv3_resnet50), ("fcn", segmentation.fcn_resnet50)]
)
def test_tensors_have_the_names_and_sizes_of_torchvisions_own(name, make):
    with torch.device("meta"):
        theirs = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
        ours = build_segmenter(name, classes=20).state_dict()

    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("name", "backbone"), [("lraspp", "resnet10"), ("fcn", "resnet10"), ("deeplabv3", "mobilenet_v3_small")]
)
def test_an_extracted_network_names_what_the_elastic_one_names(name, backbone):
    torch.manual_seed(0)
    plain = build_segmenter(name, classes=2, backbone=backbone, width=0.25)
    net = convert(plain, torch.randn(2, 3, 64, 64), switches=[1.0, 0.5]).train()
    half, images = net.space.uniform(0.5), torch.randn(2, 3, 64, 96)
    with net.at(half), torch.no_grad():
        net(images)
        found = net.eval()(images)

    expected = net.extract(half)(images)

    assert list(found) == list(expected) == ["out", "aux"][: 1 + (name != "lraspp")]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert found["out"].shape == (2, 3, 64, 96)


def test_what_cannot_be_built_is_named():
    with pytest.raises(RecipeError, match="there is no segmentation network 'unet'; expected one of deeplabv3"):
        build_segmenter("unet", classes=1)
    with pytest.raises(RecipeError, match="of 0 classes"):
        build_segmenter("fcn", classes=0)
