"""Files made larger by the network of a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from slimmable.errors import DataError, RecipeError
from slimmable.recipes import open_run, read_recipe
from slimmable.recipes.building import new_network
from slimmable.recipes.folder import OpenRun
from slimmable.recipes.upscaling import upscale_files
from slimmable.recipes.widths import name_ratios
from tests.unit.recipes.images import TINY, write_images


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    """A run that was never trained, and its images."""
    root = write_images(tmp_path_factory.mktemp("images"))
    recipe = read_recipe("super-resolution/smoke", [*TINY, f"task.data.root={root}"])
    task = recipe.task.build()
    return OpenRun(new_network(recipe, task).eval(), task, recipe, recipe.task.facts(task)), root


def half(opened):
    return name_ratios((0.5,), opened.net.space)[0]


def test_an_image_becomes_what_the_network_makes_of_it(upscaler, tmp_path):
    opened, root = upscaler
    image = root / "test" / "1.png"

    [found] = upscale_files(opened, [image], tmp_path / "new" / "large.png", width=half(opened))

    pixels = np.array(Image.open(image))
    low = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = opened.net.extract(half(opened).widths)(low)[0].clamp(0, 1).permute(1, 2, 0).mul(255).round()
    written = np.array(Image.open(found.path))
    assert found.size == (2 * pixels.shape[1], 2 * pixels.shape[0])
    assert np.abs(written - expected.numpy()).max() <= 1
    assert opened.net.widths == opened.net.space.largest, "the network comes back as it was"


def test_tiles_make_no_difference_and_several_images_go_into_a_folder(upscaler, tmp_path):
    opened, root = upscaler
    images = sorted((root / "train").iterdir())

    whole = list(upscale_files(opened, images, tmp_path / "whole", width=half(opened)))
    tiled = list(upscale_files(opened, images, tmp_path / "tiled", width=half(opened), tile=16))

    assert [found.path.name for found in whole] == ["0.png", "1.png", "2.png"]
    for one, other in zip(whole, tiled, strict=True):
        apart = np.array(Image.open(one.path)).astype(int) - np.array(Image.open(other.path))
        assert np.abs(apart).max() <= 1


def test_grey_and_transparent_images_become_colours(upscaler, tmp_path):
    opened, _ = upscaler
    Image.new("LA", (20, 18), (100, 50)).save(tmp_path / "grey.png")

    [found] = upscale_files(opened, [tmp_path / "grey.png"], tmp_path / "out.jpg", width=half(opened))

    with Image.open(found.path) as written:
        assert (written.size, written.mode, written.format) == ((40, 36), "RGB", "JPEG")


@pytest.mark.parametrize(
    ("images", "output", "error", "message"),
    [
        (["0.png", "1.png"], "large.png", RecipeError, "is one file, but 2 images"),
        (["0.png", "0.png"], "large", RecipeError, "2 images are called 0; write them into different folders"),
        (["0.png"], "large.xyz", DataError, "no ending of an image; expected .png"),
        (["9.png"], "large.png", DataError, "9.png cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(upscaler, tmp_path, images, output, error, message):
    opened, root = upscaler
    with pytest.raises(error, match=message):
        list(upscale_files(opened, [root / "test" / name for name in images], tmp_path / output, width=half(opened)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", [".", "0.png"])
def test_originals_are_never_replaced(upscaler, tmp_path, output):
    opened, root = upscaler
    image = tmp_path / "0.png"
    image.write_bytes((root / "test" / "0.png").read_bytes())
    before = image.read_bytes()

    with pytest.raises(RecipeError, match=r"0.png would replace the image it is made from; name another"):
        list(upscale_files(opened, [image], tmp_path / output, width=half(opened)))

    assert image.read_bytes() == before


def test_photographs_of_a_camera_that_was_turned_stand_upright(upscaler, tmp_path):
    opened, _ = upscaler
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 12)).save(tmp_path / "turned.jpg", exif=turned)

    [found] = upscale_files(opened, [tmp_path / "turned.jpg"], tmp_path / "out.png", width=half(opened))

    assert found.size == (24, 40)


def test_a_classifier_makes_nothing_larger(finished, tmp_path):
    opened = open_run(finished[0])
    with pytest.raises(RecipeError, match=r"the run is of classification; .* train super-resolution/photos"):
        list(upscale_files(opened, ["x.png"], tmp_path / "x.png", width=half(opened)))
