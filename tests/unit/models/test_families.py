"""The list of networks that the coverage table converts."""

from collections import Counter

import pytest
import timm
import torch
import torchvision
import transformers

from slimmable.errors import RecipeError
from slimmable.models import MODELS, build_model
from slimmable.models.families import FAMILIES, INPUT_SIZES, zoo

OWN = [model.name for model in zoo() if model.name.startswith("slimmable.")]
TORCHVISION = """
    resnet18 resnet50 mobilenet_v2 mobilenet_v3_large efficientnet_b0 shufflenet_v2_x1_0 densenet121 googlenet
    inception_v3 regnet_y_400mf resnext50_32x4d convnext_tiny vit_b_16 swin_t maxvit_t
"""
TIMM = """
    efficientnet_lite0 mobilenetv4_conv_small repvgg_a0 convnextv2_atto cspdarknet53 resnet50d seresnet50
    hrnet_w18_small dla34 ghostnet_100 res2net50_26w_4s ecaresnet50t nfnet_f0 xception41 regnetz_040
    vit_tiny_patch16_224 mobilevit_xs edgenext_small fastvit_t8
"""


def test_the_list_is_broad():
    assert len(FAMILIES) >= 36
    assert len(zoo()) >= 75


def test_no_network_is_listed_twice():
    assert max(Counter(model.name for model in zoo()).values()) == 1


@pytest.mark.parametrize(("origin", "names"), [("torchvision", TORCHVISION), ("timm", TIMM)])
def test_what_other_converters_were_measured_on_is_in_the_list(origin, names):
    assert {f"{origin}:{name}" for name in names.split()} <= {model.name for model in zoo()}


def test_every_name_exists():
    torchvision_names = torchvision.models.list_models()
    for model in zoo():
        origin, _, name = model.name.rpartition(":")
        if origin == "timm":
            assert timm.is_model(name), name
        elif origin == "torchvision":
            assert name in torchvision_names, name
        elif origin == "transformers":
            assert getattr(transformers, name).config_class, name
        else:
            assert name in MODELS or model.name in OWN, model.name


def test_every_network_names_its_package():
    assert {model.package for model in zoo()} == {"slimmable", "torchvision", "timm", "transformers"}


def test_sizes_are_of_networks_in_the_list():
    assert set(INPUT_SIZES) <= {model.name for model in zoo()}


@pytest.mark.parametrize("name", OWN)
def test_our_own_additions_map_an_image_to_tensors(name):
    built = build_model(name)

    with torch.no_grad():
        outputs = built.model.eval()(torch.zeros(1, *built.input_size))

    assert all(len(tensor) == 1 for tensor in flat(outputs))


def flat(value):
    """All tensors of a nested output."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    found = [tensor for part in parts for tensor in flat(part)]
    assert found
    return found


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["resnet18"], ["torchvision:resnet18"]),
        (["timm:resnet*"], ["timm:resnet50d", "timm:resnetv2_18"]),
        (["efficientvit"], ["timm:efficientvit_b0", "timm:efficientvit_m0"]),
        (["U-Net", " alexnet"], ["torchvision:alexnet", "slimmable.models.unet:unet"]),
    ],
)
def test_patterns_choose_by_name_or_family(patterns, expected):
    assert [model.name for model in zoo(patterns)] == expected


def test_a_pattern_without_a_match_is_an_error_that_names_near_ones():
    with pytest.raises(RecipeError, match=r"'resent18' matches none .*resnet18"):
        zoo(["resent18"])
