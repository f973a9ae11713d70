"""What latency is made of: products of axes, told apart by layers and kinds."""

import numpy as np
import pytest

from slimmable.core.axes import Axis, Segment
from slimmable.cost.features import LANES, Extent, Product, features, layers
from tests.unit.cost.networks import attending, joined

A, B, C = (Axis((Segment(group, 1),)) for group in range(3))
BOTH = Axis((Segment(0, 1), Segment(1, 1)))
FIXED = Axis((Segment(None, 7),))


def test_an_extent_has_the_size_of_its_axis_and_rounds_up_part_by_part():
    axis = Axis((Segment(0, 2, 4), Segment(None, 3), Segment(1, 1), Segment(0, 2, 4)))
    channels = np.random.default_rng(0).integers(1, 100, (50, 2)) * 4

    assert Extent.of(axis)(channels).tolist() == [axis.size(row) for row in channels]
    rounded = [3 + -(-(row[0] // 4 * 4) // 16) * 16 + -(-row[1] // 16) * 16 for row in channels]
    assert Extent.of(axis, 16)(channels).tolist() == rounded
    assert Extent.of(axis).groups == {0, 1}


@pytest.mark.parametrize(
    ("axes", "pairwise"),
    [
        ([A], True),
        ([A, B, FIXED], True),
        ([BOTH, C], True),
        ([A, A, B], True),
        ([A, B, C], False),
        ([BOTH, C, C], True),
        ([BOTH, BOTH, C], False),
    ],
)
def test_products_of_three_groups_are_known(axes, pairwise):
    assert Product.of(1, axes).pairwise == pairwise


def test_axes_of_fixed_size_enter_the_constant():
    assert Product.of(2, [FIXED, A]) == Product(14, (Extent.of(A),))


def test_layers_of_one_kind_share_features_and_keep_their_own():
    net = joined()
    names = [feature.name for feature in features(net)]
    kinds = {layer.module: layer.kind for layer in layers(net)}

    assert kinds == {
        "left": "conv2d 3x3 stride 1x1 to 8x8",
        "right": "conv2d 1x1 stride 1x1 to 8x8",
        "both": "conv2d 1x1 stride 1x1 to 8x8",
        "deep": "conv2d depthwise 3x3 stride 1x1 to 8x8",
        "squeeze": "linear of 2 rows",
        "excite": "linear of 2 rows",
        "head": "linear of 2 rows",
    }
    assert len(set(names)) == len(names)
    assert "conv2d 1x1 stride 1x1 to 8x8: work by 16" in names
    assert sum(name.startswith("deep (") for name in names) == 2 * (len(LANES) + 2)  # called twice
    assert {"cat: written", "sigmoid: written"} <= set(names)
    shared = next(f for f in features(net) if f.name == "conv2d 1x1 stride 1x1 to 8x8: work by 1")
    assert len(shared.products) == 2


def test_products_of_tensors_have_no_weights():
    weighted = {layer.kind: layer.channels is not None for layer in layers(attending())}

    assert weighted == {"linear of 12 rows": True, "scaled_dot_product_attention of 48 rows": False}
