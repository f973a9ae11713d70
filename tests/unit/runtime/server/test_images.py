"""Images are prepared as torchvision prepares them."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from slimmable.errors import DeploymentError
from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from tests.unit.runtime.fakes import FakeRuntime
from tests.unit.runtime.server.conftest import PREPROCESSING, picture

MEAN, STD = PREPROCESSING["mean"], PREPROCESSING["std"]


def preparing(shape=(3, 8, 8), **changes):
    return Preprocessing.of({**PREPROCESSING, **changes}, FakeRuntime(shape=shape).artifact.inputs)


def reference(content, resize, size):
    steps = [transforms.Resize(resize), transforms.CenterCrop(size)] if resize else [transforms.Resize(size)]
    chain = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return chain(Image.open(io.BytesIO(content)).convert("RGB"))[None]


@pytest.mark.parametrize("size", [(20, 14), (14, 20), (8, 8), (10, 10), (11, 10), (9, 31), (5, 6), (1, 40)], ids=str)
@pytest.mark.parametrize(("resize", "crop"), [(10, [8, 8]), (8, [8, 6]), (5, [8, 8]), (None, [8, 6])])
def test_it_is_what_torchvision_does(size, resize, crop):
    content = picture(size)

    found = preparing((3, *crop), resize=resize, size=crop)(content, max_pixels=10_000)

    np.testing.assert_allclose(found, reference(content, resize, crop), atol=1e-6)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_formats_and_modes(kind, mode):
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no transparency")

    assert preparing()(picture(kind=kind, mode=mode), max_pixels=10_000).shape == (1, 3, 8, 8)


def test_a_palette_with_transparency_warns_nobody():
    file = io.BytesIO()
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10), "L").convert("P").save(
        file, "PNG", transparency=bytes(range(100))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preparing()(file.getvalue(), max_pixels=10_000).shape == (1, 3, 8, 8)


def test_networks_for_grey_images():
    content = picture(mode="L", size=(8, 8))
    grey = preparing((1, 8, 8), mean=[0.5], std=[0.5], resize=None)

    pixels = np.asarray(Image.open(io.BytesIO(content)), np.float32)
    np.testing.assert_allclose(grey(content, max_pixels=64)[0, 0], (pixels / 255 - 0.5) / 0.5, rtol=1e-6)


def bomb(side):
    """A file of a few kilobytes that says it has so many pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("side", [101, 11_000, 17_000])
def test_bombs_are_refused_before_they_are_unpacked(side):
    with pytest.raises(Refused) as refused:
        preparing()(bomb(side), max_pixels=10_000)

    assert refused.value.status == 413


@pytest.mark.parametrize("cut", [0, 3, 30, 200, -100])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damaged_images_are_refused(kind, cut):
    with pytest.raises(Refused, match="no sound image"):
        preparing()(picture(kind=kind)[:cut], max_pixels=10_000)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PPM"])
def test_formats_that_nobody_sends_are_refused(kind):
    with pytest.raises(Refused):
        preparing()(picture((16, 16), kind=kind), max_pixels=10_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [8]},
        {"size": [9, 8]},
        {"mean": [0.5]},
        {"std": [0, 1, 1]},
        {"mean": ["x"] * 3},
        {"resize": 0},
        {"std": None},
    ],
)
def test_a_manifest_that_does_not_fit_is_an_error(wrong):
    with pytest.raises(DeploymentError, match="preprocessing"):
        preparing(**wrong)


def test_no_preprocessing_no_images():
    assert Preprocessing.of(None, FakeRuntime().artifact.inputs) is None
