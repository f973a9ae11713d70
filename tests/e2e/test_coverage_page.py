"""What docs/coverage.md says of every network is no less than what other converters reach."""

import re
from pathlib import Path

import pytest

from slimmable.models.families import zoo

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
LEAST = {
    "torchvision": """
        resnet18 17/21, resnet50 53/54, mobilenet_v2 51/53, mobilenet_v3_large 63/64, efficientnet_b0 81/82,
        shufflenet_v2_x1_0 50/57, densenet121 120/121, googlenet 57/58, inception_v3 94/95, regnet_y_400mf 85/86,
        resnext50_32x4d 53/54, convnext_tiny 50/59, vit_b_16 36/38, swin_t 40/53, maxvit_t 100/151
    """,
    "timm": """
        efficientnet_lite0 49/50, mobilenetv4_conv_small 46/47, repvgg_a0 44/45, convnextv2_atto 35/41,
        cspdarknet53 66/68, resnet50d 55/56, seresnet50 85/86, hrnet_w18_small 91/92, dla34 37/38, ghostnet_100 93/96,
        res2net50_26w_4s 60/86, ecaresnet50t 65/72, nfnet_f0 70/82, xception41 80/85, regnetz_040 120/142,
        vit_tiny_patch16_224 48/50, mobilevit_xs 50/72, edgenext_small 40/51, fastvit_t8 50/69
    """,
}
"""Elastic layers of all that the best converter known reaches; some layers count otherwise there."""


@pytest.fixture(scope="module")
def rows():
    """Cells of every row, by model."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    columns, _, *found = split
    named = [dict(zip(columns, line, strict=True)) for line in found]
    return {row["model"].strip("`"): row for row in named}


def test_the_page_is_of_the_present_list(rows):
    assert set(rows) == {model.name for model in zoo()}


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (f"{origin}:{name}", least)
        for origin, text in LEAST.items()
        for name, least in (entry.split() for entry in text.split(","))
    ],
)
def test_no_network_has_fewer_elastic_layers_than_elsewhere(rows, model, least):
    elastic, layers = map(int, rows[model]["elastic layers"].split(" / "))
    their_elastic, their_layers = map(int, least.split("/"))

    assert elastic >= their_elastic
    assert elastic / layers >= their_elastic / their_layers


def test_every_network_has_elastic_layers_and_keeps_the_laws(rows):
    for model, row in rows.items():
        assert int(row["elastic layers"].split(" / ")[0]) > 0, model
        assert row["checks"] == "exact" or re.fullmatch(r"to \de-\d\d", row["checks"]), model
