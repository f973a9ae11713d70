"""PSNR and SSIM against slow oracles that share no line with the code."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.errors import DataError, MissingDependencyError
from slimmable.tasks.fidelity import FidelityMetric, luminance
from slimmable.tasks.patches.batches import PatchBatch


def images(*sides, seed=0):
    """A large image of whole bytes, and what a network might have made of it, which leaves its range."""
    generator = torch.Generator().manual_seed(seed)
    high = torch.randint(0, 256, (1, 3, *sides), generator=generator) / 255
    low = torch.nn.functional.avg_pool2d(high, 2)
    return high + 0.1 * torch.randn(high.shape, generator=generator), PatchBatch(low, high)


def luminance_by_hand(pixels_HWC):
    """ITU-R BT.601 on bytes: 16 and up to 235."""
    red, green, blue = (pixels_HWC[..., channel] for channel in range(3))
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def psnr_by_hand(found, wanted):
    total = 0.0
    for a, b in zip(found.flatten(), wanted.flatten(), strict=True):
        total += (a - b) ** 2
    return 10 * np.log10(255**2 / (total / found.size))


def ssim_by_hand(found, wanted):
    """Means, variances and covariance of every whole window, weighed by a Gaussian."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(found.shape[0] - 10):
        for column in range(found.shape[1] - 10):
            a, b = (each[row : row + 11, column : column + 11] for each in (found, wanted))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            together = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + small)
                * (2 * together + smaller)
                / ((mean_a**2 + mean_b**2 + small) * (var_a + var_b + smaller))
            )
    return np.mean(values)


def by_hand(outputs, batch, *, scale):
    found, wanted = (
        np.clip(np.rint(each[0].permute(1, 2, 0).double().numpy() * 255), 0, 255)[scale:-scale, scale:-scale]
        for each in (outputs, batch.high)
    )
    found_y, wanted_y = luminance_by_hand(found), luminance_by_hand(wanted)
    channels = [ssim_by_hand(found[..., channel], wanted[..., channel]) for channel in range(3)]
    return {
        "psnr_y": psnr_by_hand(found_y, wanted_y),
        "psnr_rgb": psnr_by_hand(found, wanted),
        "ssim_y": ssim_by_hand(found_y, wanted_y),
        "ssim_rgb": np.mean(channels),
    }


def test_figures_are_means_over_images_of_any_size():
    metric = FidelityMetric(2)
    cases = [images(20, 24), images(32, 18, seed=1)]
    for outputs, batch in cases:
        metric.update(outputs, batch)

    found = metric.compute()

    expected = [by_hand(outputs, batch, scale=2) for outputs, batch in cases]
    for name in expected[0]:
        assert found[name] == pytest.approx(np.mean([each[name] for each in expected]), rel=1e-4), name
    errors = [(outputs - batch.high).abs().mean().item() for outputs, batch in cases]
    assert found["loss"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_batch_is_its_images_one_by_one():
    pairs = [images(20, 20, seed=seed) for seed in range(3)]
    together, alone = FidelityMetric(2), FidelityMetric(2)
    together.update(
        torch.cat([outputs for outputs, _ in pairs]),
        PatchBatch(*(torch.cat([batch[part] for _, batch in pairs]) for part in range(2))),
    )
    for outputs, batch in pairs:
        alone.update(outputs, batch)

    assert together.compute() == pytest.approx(alone.compute(), rel=1e-5)


def test_the_border_does_not_count():
    outputs, batch = images(24, 24)
    spoilt = outputs.clone()
    for edge in (slice(0, 2), slice(-2, None)):
        spoilt[..., edge, :] = 0
        spoilt[..., edge] = 0

    figures = []
    for each in (outputs, spoilt):
        metric = FidelityMetric(2)
        metric.update(each, batch)
        figures.append(metric.compute())

    assert figures[0].pop("loss") != figures[1].pop("loss")
    assert figures[0] == figures[1]


def test_bicubic_is_that_of_pillow():
    _, batch = images(48, 40)
    metric = FidelityMetric(2)
    metric.update(batch.high, batch)

    low = batch.low[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    large = np.array(Image.fromarray(low).resize((40, 48), Image.Resampling.BICUBIC), dtype=np.float64)[2:-2, 2:-2]
    wanted = batch.high[0].mul(255).round().permute(1, 2, 0).numpy().astype(np.float64)[2:-2, 2:-2]
    expected = psnr_by_hand(luminance_by_hand(large), luminance_by_hand(wanted))
    # Pillow rounds between its two passes, and the small image is not of whole bytes here.
    assert metric.compute()["bicubic_psnr_y"] == pytest.approx(expected, abs=0.02)


def test_luminance_of_grey_is_video_grey():
    grey = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    expected = (16 + 219 * grey[:, :1]) / 255
    torch.testing.assert_close(luminance(grey), expected)


def test_no_images_are_no_figure():
    with pytest.raises(DataError, match="no images to compare"):
        FidelityMetric(2).compute()


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "torchmetrics.functional", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'slimmable\[super-resolution\]'"):
        FidelityMetric(2).update(*images(20, 20))
