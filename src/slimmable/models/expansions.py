"""How widths depend on each other in the published networks, for ``convert(..., follow=)``.

A uniform multiplier alone would round every width by itself: ``make_divisible(576 * 0.35, 8)`` is 200, where MobileNet
v2 at 0.35 has ``6 * make_divisible(96 * 0.35, 8)``, 192. Only uniform widths follow; chosen one by one, these widths
are free between the factor times the narrowest width that they follow and the factor times the widest.
"""

from slimmable.models.mobilenet_v2 import STAGES
from slimmable.models.mobilenet_v3 import BLOCKS
from slimmable.models.wdsr import Variant

Follow = dict[str, tuple[str, float]]
"""By the group that follows, the group that it follows and the factor."""


def mobilenet_v2_expansions() -> Follow:
    """MobileNet v2, ours and torchvision's: expanded widths are 6 times their block's *rounded* input.

    Returns:
        By the group of each block's expanded width, the group of its input and the factor.

    References:
        Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018,
        Table 2.

    >>> mobilenet_v2_expansions()["features.3.conv.0.0"]
    ('features.2.conv.2', 6)
    """
    follow: Follow = {}
    block, entering = 2, "features.1.conv.1"
    for factor, _, count, _ in STAGES[1:]:
        opening = f"features.{block}.conv.2"
        for index in range(count):
            # Inside a stage the residual sums make all outputs one group, named after the first block's projection.
            follow[f"features.{block}.conv.0.0"] = (opening if index else entering, factor)
            block += 1
        entering = opening
    return follow


def mobilenet_v3_large_expansions() -> Follow:
    """MobileNet v3-Large, ours and torchvision's: what the gates squeeze to, and the last convolution.

    A gate squeezes the *rounded* expanded width of its block to a quarter, rounded itself; the last convolution expands
    its *rounded* input 6 times.

    Returns:
        By the group of each gate's squeeze, the group of its block's expanded width and the factor; and so for the last
        convolution.

    References:
        Howard et al. Searching for MobileNetV3. ICCV 2019, section 5.3 and Table 1.

    >>> mobilenet_v3_large_expansions()["features.4.block.2.fc1"]
    ('features.4.block.0.0', 0.25)
    """
    gated = [place for place, row in enumerate(BLOCKS, start=1) if row.gated]
    follow: Follow = {f"features.{place}.block.2.fc1": (f"features.{place}.block.0.0", 0.25) for place in gated}
    last_stage = next(place for place, row in enumerate(BLOCKS, start=1) if row.outputs == BLOCKS[-1].outputs)
    follow[f"features.{len(BLOCKS) + 1}.0"] = (f"features.{last_stage}.block.3.0", 6)
    return follow


def wdsr_expansions(variant: Variant = "A", blocks: int = 8) -> Follow:
    """WDSR: the wide activations are 4 (A) or 6 (B) times the *rounded* features, B's way back 0.8 times.

    Args:
        variant: ``"A"`` or ``"B"``.
        blocks: Number of blocks.

    Returns:
        By the groups inside each block, the group of the features and the factor.

    References:
        Yu, Fan, Yang, Xu, Wang, Wang, Huang. Wide Activation for Efficient and Accurate Image Super-Resolution. 2018,
        section 3.

    >>> wdsr_expansions("B", blocks=1)
    {'body.0.expand': ('head', 6), 'body.0.contract.0': ('head', 0.8)}
    """
    inside = {"expand": 4} if variant == "A" else {"expand": 6, "contract.0": 0.8}
    return {f"body.{block}.{name}": ("head", factor) for block in range(blocks) for name, factor in inside.items()}
