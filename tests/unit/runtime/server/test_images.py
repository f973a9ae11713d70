"""Images are prepared as those of the test set."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.errors import DeploymentError
from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from slimmable.tasks.images.decode import centre
from slimmable.tasks.images.memory import Normalisation
from tests.unit.runtime.fakes import FakeRuntime
from tests.unit.runtime.server.conftest import PREPROCESSING, picture

MEAN, STD = PREPROCESSING["mean"], PREPROCESSING["std"]


def preparing(shape=(3, 8, 8), **changes):
    return Preprocessing.of({**PREPROCESSING, **changes}, FakeRuntime(shape=shape).artifact.inputs)


def reference(content, resize, side):
    """As images of the test set are prepared, whose figures the artifact tells."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB")))
    return Normalisation(mean=tuple(MEAN), std=tuple(STD))(centre(pixels[None], side, shorter=resize))


@pytest.mark.parametrize("size", [(20, 14), (14, 20), (8, 8), (10, 10), (11, 10), (9, 31), (1, 40), (33, 57)], ids=str)
@pytest.mark.parametrize(("resize", "side"), [(10, 8), (9, 8), (8, 8), (10, 7)])
def test_it_is_what_evaluation_does(size, resize, side):
    content = picture(size)

    found = preparing((3, side, side), resize=resize, size=[side, side])(content, max_pixels=10_000)

    one_level = 1.01 / 255 / min(STD)  # the two libraries that resize round now and then to neighbouring levels
    np.testing.assert_allclose(found, reference(content, resize, side), atol=one_level)
    assert found.flags.c_contiguous


def test_without_a_size_to_resize_to_the_image_is_stretched():
    content = picture((20, 14))
    found = preparing((3, 8, 6), resize=None, size=[8, 6])(content, max_pixels=10_000)
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((6, 8), Image.Resampling.BILINEAR)
    expected = (np.asarray(image, np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1)[None], atol=1e-5)


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


@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (16_384, 3)], ids=str)
def test_thin_strips_are_refused_before_they_are_enlarged(size, monkeypatch):
    content, network = picture(size), preparing((3, 224, 224), resize=256, size=[224, 224])
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("it was enlarged"))

    with pytest.raises(Refused, match=f"{size[0]}x{size[1]} pixels is too long and thin") as refused:
        network(content, max_pixels=25_000_000)

    assert refused.value.status == 413


def test_what_is_enlarged_to_just_the_limit_is_answered():
    network = preparing((3, 224, 224), resize=256, size=[224, 224])

    assert network(picture((30, 1)), max_pixels=256 * 256 * 30).shape == (1, 3, 224, 224)
    with pytest.raises(Refused):
        network(picture((31, 1)), max_pixels=256 * 256 * 30)


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
