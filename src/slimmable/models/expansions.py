"""How the widths of torchvision's MobileNetV2 depend on each other in the published networks."""

STAGES = ((6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, output channels and number of blocks of each stage after the first block, which expands nothing."""


def mobilenet_v2_expansions() -> dict[str, tuple[str, int]]:
    """For ``convert(..., follow=)``: each expanded width is a multiple of its block's *rounded* input width.

    A uniform multiplier alone would round each expanded width by itself: ``make_divisible(576 * 0.35, 8)`` is 200, the
    published network at 0.35 has ``6 * make_divisible(96 * 0.35, 8)``, 192. Only uniform widths follow; chosen one by
    one, expanded widths are free between 6 times the narrowest input and 6 times the widest.

    Returns:
        By the group of each block's expanded width, the group of its input and the factor.

    References:
        Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018,
        Table 2.

    >>> mobilenet_v2_expansions()["features.3.conv.0.0"]
    ('features.2.conv.2', 6)
    """
    follow: dict[str, tuple[str, int]] = {}
    block, entering = 2, "features.1.conv.1"
    for factor, _, count in STAGES:
        opening = f"features.{block}.conv.2"
        for index in range(count):
            # Inside a stage the residual sums make all outputs one group, named after the first block's projection.
            follow[f"features.{block}.conv.0.0"] = (opening if index else entering, factor)
            block += 1
        entering = opening
    return follow
